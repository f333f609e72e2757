"""Text towers of networks that KerasHub builds: texts in, rows that are compared with those of images out."""

import re
import string
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from onepass.extract.backbones.transformers_folder import TOKENIZERS, TransformersFolder
from onepass.extract.frameworks import import_keras, import_keras_hub
from onepass.features.errors import BackboneError

_AT_ONCE = 64
"""Texts; memory grows with them."""

_PUNCTUATION = str.maketrans("", "", string.punctuation)


def text_embeddings(backbone: Any, tokens: np.ndarray) -> np.ndarray:
    """Rows of texts, in the space of the network's own vector of an image.

    Args:
        backbone: CLIPBackbone, SigLIPBackbone or MetaCLIP2Backbone of KerasHub.
        tokens: (n, t) int32.

    Returns:
        (n, d) float32.
    """
    keras = import_keras()
    pieces = [tokens[start : start + _AT_ONCE] for start in range(0, len(tokens), _AT_ONCE)]
    rows = [keras.ops.convert_to_numpy(backbone.get_text_embeddings(piece)) for piece in pieces]
    return np.asarray(np.concatenate(rows), np.float32)


def tokens_of_preset(preset: str, texts: Sequence[str], length: int) -> np.ndarray:
    """Texts as the network of a preset of KerasHub was trained to read them, (n, length) int32.

    They are made ready as transformers does it: CLIP's tokenizer lowers them by itself, SigLIP's take them lowered
    and without punctuation, SigLIP 2's (Gemma's) lowered, and those of MetaCLIP 2 as they are.

    Args:
        preset: A name, or a folder with tokenizer.json and its assets.
        texts: n of them.
        length: Tokens that the network takes.

    Raises:
        BackboneError: The tokenizer cannot be read, or is none of these.
    """
    hub = import_keras_hub()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # KerasHub leaves it to Python to close the vocabulary
            tokenizer = hub.models.Tokenizer.from_preset(preset)
        kind = type(tokenizer).__name__
        prepare, starts = _READY[kind]
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BackboneError(
            f"KerasHub cannot read a tokenizer in {preset} ({type(error).__name__}: {reason[:200]}). Needed: "
            f"{', '.join(list(_READY)[:-1])} or {list(_READY)[-1]}, as "
            'keras_hub.models.Tokenizer.from_preset("NAME").save_to_preset("FOLDER") writes it.'
        ) from None
    ids = [list(map(int, one)) for one in tokenizer([prepare(text) for text in texts])]
    start = [int(tokenizer.start_token_id)] if starts else []
    end, padding = int(tokenizer.end_token_id), int(tokenizer.pad_token_id)
    return _packed([start + one for one in ids], end, padding, length)


def tokens_of_folder(folder: TransformersFolder, texts: Sequence[str], length: int) -> np.ndarray:
    """Texts as a folder of transformers says that its network reads them, (n, length) int32.

    Args:
        folder: With one of the files of `TOKENIZERS`.
        texts: n of them.
        length: Tokens that the network takes.

    Raises:
        BackboneError: The tokenizer cannot be read.
    """
    path = next(folder.path / name for name in TOKENIZERS if (folder.path / name).is_file())
    try:
        if path.suffix == ".json":
            from tokenizers import Tokenizer

            tokenizer = Tokenizer.from_file(str(path))
            tokenizer.no_padding()
            tokenizer.enable_truncation(length)
            ids = [one.ids for one in tokenizer.encode_batch(list(texts))]
            # What stands behind the end of a text is not seen from there, because attention looks back alone.
            return np.array([one + [0] * (length - len(one)) for one in ids], np.int32)
        tokenizer = import_keras_hub().models.MetaCLIP2Tokenizer(path.read_bytes())
        ids = [[tokenizer.start_token_id, *map(int, one)] for one in tokenizer(list(texts))]
        return _packed(ids, tokenizer.end_token_id, 0, length)
    except Exception as error:  # tokenizers raises no narrower one
        raise BackboneError(
            f"the tokenizer {path} cannot be read ({type(error).__name__}: {str(error)[:200]}). Take it from a copy.",
            path=path,
        ) from None


def _packed(ids: Sequence[list[int]], end: int, padding: int, length: int) -> np.ndarray:
    """Token numbers, cut where there are too many, each with an end and filled up: (n, length) int32."""
    ended = [[*one[: length - 1], end] for one in ids]
    return np.array([one + [padding] * (length - len(one)) for one in ended], np.int32)


def _without_punctuation(text: str) -> str:
    return re.sub(r"\s+", " ", text.lower().translate(_PUNCTUATION)).strip()


_READY: dict[str, tuple[Callable[[str], str], bool]] = {
    "CLIPTokenizer": (str, True),
    "SigLIPTokenizer": (_without_punctuation, False),
    "GemmaTokenizer": (str.lower, False),
    "MetaCLIP2Tokenizer": (str, True),
}
"""Class of a tokenizer -> what makes a text ready for it, and whether a text has a start."""
