"""Latency and memory of deployed networks, measured on the device at hand."""

from nas.measure.clock import time_call as time_call
from nas.measure.clock import time_together as time_together
from nas.measure.device import choose_device as choose_device
from nas.measure.device import choose_dtype as choose_dtype
from nas.measure.device import describe_device as describe_device
from nas.measure.lock import DeviceLock as DeviceLock
from nas.measure.memory import DoesNotFit as DoesNotFit
from nas.measure.memory import available_bytes as available_bytes
from nas.measure.memory import peak_bytes as peak_bytes
from nas.measure.whole_model import measure_model as measure_model
