"""Opens damaged files in a process of its own: python fuzzing.py KIND FILE START COUNT.

Each file is the given one with a few mutations that its number determines. Whatever happens must be a UserError or a
correct load. The number is printed before each try, so that the last one is known if the process dies.
"""

import contextlib
import io
import json
import resource
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from onepass import info
from onepass.extract import verify
from onepass.features import FeatureFile
from onepass.features.errors import UserError
from onepass.heads.export.certificate import Certificate
from onepass.heads.finetune.model_file import tuned_model
from onepass.heads.saved_head import load_head

MEMORY, SECONDS = 3 * 2**30, 20
TOKENS = [
    b"null",
    b"-1",
    b"1e999",
    b"NaN",
    b'"x"',
    b"[]",
    b"{}",
    b"true",
    b"99999999999",
    b"../../x",
    b"\xff\xfe",
    b"0",
]


def mutated(data: bytes, number: int) -> bytes:
    random = np.random.default_rng(number)
    changed = bytearray(data)
    for _ in range(int(random.integers(1, 4))):
        # Headers are short and decide most, so half of the mutations go there.
        end = len(changed) if random.random() < 0.5 else min(len(changed), 6000)
        at = int(random.integers(0, max(end, 1)))
        length = int(random.integers(1, 40))
        kind = int(random.integers(0, 8))
        if kind == 0:
            changed[at : at + 1] = bytes([changed[at] ^ (1 << int(random.integers(0, 8)))])
        elif kind == 1:
            changed[at : at + length] = random.bytes(min(length, len(changed) - at))
        elif kind == 2:
            changed[at : at + length] = bytes([int(random.choice([0, 255]))]) * min(length, len(changed) - at)
        elif kind == 3:
            del changed[at:]
        elif kind == 4:
            del changed[at : at + length]
        elif kind == 5:
            changed[at:at] = random.bytes(length)
        elif kind == 6:
            other = int(random.integers(0, max(len(changed) - length, 1)))
            changed[at : at + length] = changed[other : other + length]
        else:
            token = TOKENS[int(random.integers(0, len(TOKENS)))]
            changed[at : at + len(token)] = token
        if not changed:
            break
    return bytes(changed)


def use_head(path: Path) -> None:
    head = load_head(path)
    rows = np.random.default_rng(0).normal(size=(3, head.spec.width)).astype(np.float32)
    probabilities = head.predict_proba(rows)
    assert probabilities.shape == (3, len(head.class_names))
    if head.out_of_distribution:
        head.unknown_at(0.05)(rows, probabilities)
    shown = info(path)
    json.dumps([str(shown), shown.record()])


def use_features(path: Path) -> None:
    shown = info(path)
    json.dumps([str(shown), shown.record()])
    str(verify(path, golden=False))
    with FeatureFile(path) as file:
        chosen, _ = file.rows_to_score("auto", seen=np.zeros((0, 8), np.uint8))
        file.require_complete()
        x, y = file.read(chosen)
        assert x.shape == (len(y), file.spec.width)


def use_certificate(path: Path) -> None:
    str(Certificate.read(path))


def use_model(path: Path) -> None:
    assert len(tuned_model(path).class_names) > 1


USES: dict[str, Callable[[Path], None]] = {
    "head": use_head,
    "features": use_features,
    "certificate": use_certificate,
    "model": use_model,
}


def main(kind: str, original: Path, start: int, count: int) -> None:
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    data, path = original.read_bytes(), original.with_name(f"mutated-{kind}-{start}{original.suffix}")
    opened = 0
    for number in range(start, start + count):
        print(number, flush=True)
        path.write_bytes(mutated(data, number))
        signal.alarm(SECONDS)
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                USES[kind](path)
            opened += 1
        except UserError as error:
            assert str(error), number
        except BaseException:
            traceback.print_exc()
            raise SystemExit(f"mutation {number} of {kind}") from None
        signal.alarm(0)
    path.unlink(missing_ok=True)
    print(f"opened {opened}")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
