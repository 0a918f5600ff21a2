"""What a person sees of a study: live progress, tables, plots, the page, and the W&B runs."""

from nas.report.progress import Progress as Progress
from nas.report.tables import print_summary as print_summary
from nas.report.tables import write_front as write_front
from nas.report.tables import write_trials as write_trials
