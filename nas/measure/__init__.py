"""Latency and memory of deployed networks: measured on the device at hand, predicted from blocks, or bounded."""

from nas.measure.block_table import TableError as TableError
from nas.measure.clock import time_call as time_call
from nas.measure.clock import time_together as time_together
from nas.measure.conditions import DeviceBusy as DeviceBusy
from nas.measure.device import DTYPES as DTYPES
from nas.measure.device import DeviceGone as DeviceGone
from nas.measure.device import choose_device as choose_device
from nas.measure.device import choose_dtype as choose_dtype
from nas.measure.device import describe_device as describe_device
from nas.measure.device import device_name as device_name
from nas.measure.device import while_it_answers as while_it_answers
from nas.measure.lock import DeviceLock as DeviceLock
from nas.measure.memory import DoesNotFit as DoesNotFit
from nas.measure.meter import Meter as Meter
from nas.measure.meter import dtype_of as dtype_of
from nas.measure.meter import open_meter as open_meter
from nas.measure.prediction import NotInTable as NotInTable
from nas.measure.whole_model import Measured as Measured
