"""`scaler` and `python -m scaler`."""

from scaler.cli.commands import scaler


def main() -> None:
    scaler.main(prog_name="scaler")


if __name__ == "__main__":
    main()
