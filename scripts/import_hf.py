"""Writes the architecture of a model that `transformers` saved as an architecture file, and its weights if asked.

    python scripts/import_hf.py DIR --out architecture.yaml
    python scripts/import_hf.py DIR --out architecture.yaml --weights architecture.safetensors

DIR holds config.json and safetensors. Nothing in it is executed; what is not understood is refused by name.
"""

import argparse
import sys
import warnings
from pathlib import Path

from nas.architecture import diagram, write_architecture
from scripts.command_line import UserError, speaking_to_users


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, help="what transformers saved: config.json and safetensors")
    parser.add_argument("--out", type=Path, required=True, help="the architecture file to write")
    parser.add_argument("--weights", type=Path, help="the weights file to write")
    arguments = parser.parse_args()
    with speaking_to_users(interrupted="Nothing was written."):
        import_model(arguments.directory, arguments.out, arguments.weights)


def import_model(directory: Path, out: Path, weights: Path | None) -> None:
    """Read the model, write what is asked for, and say what it is."""
    from nas.checkpoint import save_weights
    from nas.count import count_parameters
    from nas.interop import ReadByNames, load_pretrained

    for path in filter(None, (out, weights)):
        if not path.parent.is_dir():
            raise UserError(f"{path.parent} must be a directory to write {path.name} into, but it is not.")
        if path.is_dir():
            raise UserError(f"{path} is a directory; name the file to write.")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ReadByNames)
        architecture, model = load_pretrained(directory)
    for warning in caught:
        print(f"note: {warning.message}", file=sys.stderr)
    try:
        write_architecture(out, architecture, comment=f"Imported from {directory.name}, as transformers saved it.")
        if weights is not None:
            save_weights(weights, model.state_dict(), {"imported_from": architecture.name})
    except OSError as error:
        raise UserError(f"What was read cannot be written ({error}).") from None
    print(f"{architecture.name}: {diagram(architecture)}, {count_parameters(architecture):,} parameters -> {out}")


if __name__ == "__main__":
    main()
