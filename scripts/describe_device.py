"""Measures the device at hand and writes its description: peak arithmetic by type, bandwidth, memory.

    python scripts/describe_device.py                        into nas/devices, under the device's name
    python scripts/describe_device.py --device cuda:1 --out my-gpu.yaml

The roofline, and with it the shares of roofline and `measure.cost_model=roofline`, rests on these numbers. Devices
whose makers publish them are described by what is published.
"""

import argparse
from pathlib import Path

from nas.devices import FOLDER
from scripts.command_line import speaking_to_users


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:<number> (default: auto)")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each number (default: 3)")
    parser.add_argument("--out", type=Path, help="the file that is written (default: nas/devices/<name>.yaml)")
    arguments = parser.parse_args()
    with speaking_to_users(interrupted="Nothing was written."):
        from nas.measure import choose_device
        from nas.measure.calibrate import measured_spec, write_spec

        spec = measured_spec(choose_device(arguments.device), arguments.seconds)
        path = arguments.out or FOLDER / f"{spec.slug}.yaml"
        write_spec(spec, path)
        print(path.read_text(), end="")
        print(f"written {path}")


if __name__ == "__main__":
    main()
