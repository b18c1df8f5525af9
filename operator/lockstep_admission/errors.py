"""What everybody who checks manifests raises of one that is not taken."""

from collections.abc import Sequence


class Refused(Exception):
    """A manifest that is not taken."""

    def __init__(self, sentences: Sequence[str]) -> None:
        """One sentence for each thing that is wrong, in the apiserver's words where it says it."""
        super().__init__("\n".join(sentences))
        self.sentences = tuple(sentences)
