"""`p2pnode init --from DIR`: a folder that transformers loads becomes the first model of a network.

What it is: the folder's decoder, words and weights, checked, for ``founding``, which keeps them as blobs that every node of the network
fetches. What it is not: trust in where the folder comes from; `p2pnode verify DIR` checks one that was exported from a chain.

Rules for editing: blocking. What does not fit is said before the text is read and before memory is taken for weights.
"""

from dataclasses import dataclass
from pathlib import Path

from model.config import ModelConfig, TrainingConfig
from model.errors import InterchangeError, TokenizerError
from model.interchange.reading import TOKENIZER, ModelFolder, memory_problem
from model.replica import Replica
from model.tokenizer import Tokenizer, tokenizer_from_json
from p2pnode.config import Config
from p2pnode.errors import SetUpError
from p2pnode.reading import Say, tokenizer_named


@dataclass(frozen=True, slots=True)
class ImportedModel:
    """A folder that can be imported. ``tokenizer``: None where it has none."""

    folder: ModelFolder
    tokenizer: Tokenizer | None

    @property
    def config(self) -> ModelConfig:
        return self.folder.config

    def words(self, config: Config, say: Say) -> Tokenizer:
        """What its tokens mean: its own tokenizer, or where it has none the one that the settings name.

        Raises:
            SetUpError: the settings name another one than it has, or one of more words than it has embeddings.
        """
        path = self.folder.path
        if self.tokenizer is None:
            found = tokenizer_named(config)
            if not config.given("tokenizer"):
                say(f"{path} has no {TOKENIZER}: text is read as bytes, which may mean nothing to this model")
            if found.vocabulary > self.config.vocabulary:
                raise SetUpError(
                    f"{path}: a vocab_size of {self.config.vocabulary}, and the tokenizer has {found.vocabulary} words",
                    "name the tokenizer with which this model was trained: --tokenizer",
                )
            return found
        if config.given("tokenizer") and tokenizer_named(config).to_json() != self.tokenizer.to_json():
            raise SetUpError(f"--tokenizer: {path} has another {TOKENIZER}", "leave --tokenizer out")
        return self.tokenizer

    def replica(self, training: TrainingConfig, say: Say) -> Replica:
        """M(0). Raises SetUpError where the weights are none of a model's, or this machine cannot hold them."""
        problem = memory_problem(Replica.bytes_of(self.config, training))
        if problem is not None:
            raise SetUpError(f"{self.folder.path}: {problem}", "take part with a machine that holds it")
        turned = 0

        def fill(theta: object) -> None:
            nonlocal turned
            turned = self.folder.read(theta)  # type: ignore[arg-type]  # numpy stays in the model library

        try:
            replica = Replica.filled(self.config, training, fill)
        except InterchangeError as unfit:
            raise SetUpError(unfit.message, unfit.hint) from None
        if turned:
            say(
                f"{turned} values of {self.folder.path} were -0.0 or too small for a network's arithmetic; they are 0 now"
            )
        return replica


def open_model(path: Path) -> ImportedModel:
    """Everything but the weights. Raises SetUpError with the first thing that does not fit."""
    try:
        folder = ModelFolder.open(path)
        document = folder.tokenizer()
        tokenizer = None if document is None else tokenizer_from_json(document)
    except InterchangeError as unfit:
        raise SetUpError(unfit.message, unfit.hint) from None
    except TokenizerError as unfit:
        raise SetUpError(f"{path / TOKENIZER}: {unfit.message}", unfit.hint) from None
    if tokenizer is not None and tokenizer.vocabulary > folder.config.vocabulary:
        raise SetUpError(
            f"{path / TOKENIZER}: {tokenizer.vocabulary} words, and config.json has a vocab_size of {folder.config.vocabulary}",
            "it belongs to another model",
        )
    return ImportedModel(folder, tokenizer)
