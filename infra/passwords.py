"""Fresh passwords; there are no default ones.

python -m infra.passwords > infra/.env         for compose
python -m infra.passwords infra/kubernetes     two files for kustomize: passwords.env, clients.env
"""

import secrets
import string
import sys
from collections.abc import Mapping
from pathlib import Path

NAMES = (
    "POSTGRES_PASSWORD",
    "PREFECT_DATABASE_PASSWORD",
    "MLFLOW_DATABASE_PASSWORD",
    "READER_DATABASE_PASSWORD",
    "PREFECT_PASSWORD",
    "S3_ACCESS_KEY",
    "S3_SECRET_KEY",
    "BROWSE_TOKEN",
    "BROWSE_KEY",
)
LETTERS = string.ascii_letters + string.digits  # some become parts of addresses


def made() -> dict[str, str]:
    """Each of the names with 32 letters and digits."""
    return {name: "".join(secrets.choice(LETTERS) for _ in range(32)) for name in NAMES}


def of_clients(words: Mapping[str, str]) -> dict[str, str]:
    """What a flow run must know of them, under the names that its libraries read."""
    return {
        "AWS_ACCESS_KEY_ID": words["S3_ACCESS_KEY"],
        "AWS_SECRET_ACCESS_KEY": words["S3_SECRET_KEY"],
        "PREFECT_API_AUTH_STRING": f"dlpk:{words['PREFECT_PASSWORD']}",
    }


def write(folder: Path) -> None:
    """Both files for kustomize, for their owner alone. Raises FileExistsError: a cluster keeps its passwords."""
    words = made()
    for name, content in {"passwords.env": words, "clients.env": of_clients(words)}.items():
        path = folder / name
        path.touch(mode=0o600, exist_ok=False)
        path.write_text(lines(content), encoding="utf-8")


def lines(words: Mapping[str, str]) -> str:
    return "".join(f"{name}={word}\n" for name, word in words.items())


if __name__ == "__main__":
    if sys.argv[1:]:
        try:
            write(Path(sys.argv[1]))
        except FileExistsError as error:
            sys.exit(f"{error.filename} is there: a cluster keeps its passwords; delete it only for a new cluster")
        except OSError as error:
            sys.exit(f"{error.filename} cannot be written ({error.strerror}); give the folder infra/kubernetes")
    else:
        sys.stdout.write(lines(made()))
