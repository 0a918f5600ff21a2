"""The public door of the kernels: what others import, and nothing else."""

from kernels._attention import attention as attention
from kernels._attention import attention_step as attention_step
from kernels._glu import glu as glu
from kernels._grouped_matmul import grouped_matmul as grouped_matmul
from kernels._linear_cross_entropy import linear_cross_entropy as linear_cross_entropy
from kernels._matrix_recurrence import matrix_recurrence as matrix_recurrence
from kernels._matrix_recurrence import matrix_recurrence_step as matrix_recurrence_step
from kernels._moe import moe_ffn as moe_ffn
from kernels._moe import route_top_k as route_top_k
from kernels._rms_norm import l2_norm as l2_norm
from kernels._rms_norm import rms_norm as rms_norm
from kernels._rope import rope as rope
from kernels._selective_scan import selective_scan as selective_scan
from kernels._selective_scan import selective_scan_step as selective_scan_step
from kernels._short_convolution import short_convolution as short_convolution
from kernels._short_convolution import short_convolution_step as short_convolution_step
from kernels._vector_recurrence import vector_recurrence as vector_recurrence
from kernels._vector_recurrence import vector_recurrence_step as vector_recurrence_step
from kernels.backend import Backend as Backend
from kernels.backend import use_backend as use_backend
from kernels.backend import use_substitutes as use_substitutes
from kernels.tuned_table import fingerprint as fingerprint
from kernels.tuning import record_launches as record_launches
