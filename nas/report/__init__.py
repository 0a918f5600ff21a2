"""What a person sees of a study: live progress, tables, plots, the page, and the W&B runs."""

from nas.report.confirmed import confirmation_text as confirmation_text
from nas.report.confirmed import write_confirmation as write_confirmation
from nas.report.errors import ReportError as ReportError
from nas.report.page import write_page as write_page
from nas.report.plot import write_plot as write_plot
from nas.report.progress import Progress as Progress
from nas.report.ready import check_ready as check_ready
from nas.report.tables import print_summary as print_summary
from nas.report.tables import write_front as write_front
from nas.report.tables import write_trials as write_trials
from nas.report.tracker import Tracker as Tracker
from nas.report.tracker import TrackerSettings as TrackerSettings
