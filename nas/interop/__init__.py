"""Import from and export to what others use. The one room that knows their file formats and names."""

from nas.interop.errors import InteropError as InteropError
from nas.interop.errors import ReadByNames as ReadByNames
from nas.interop.huggingface import load_pretrained as load_pretrained
