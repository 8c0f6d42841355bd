"""Turns a piece of a batch job into its part: reads its images, classifies them, writes the rows."""

from dataclasses import dataclass, replace

from dvt.inference import EarlyExit
from dvt.serving.batch_output import Counts, write_part
from dvt.serving.batch_work import Piece, Work
from dvt.serving.piece_images import PieceImages
from dvt.serving.prediction import Classifier, predictions_table
from dvt.train.storage import RunFolder


@dataclass(frozen=True)
class PartWriter:
    """How parts are made; what a worker needs but the model and the pieces.

    Attributes:
        work: Its format and kept columns count.
        folder: The job's output.
        image_column: Of Parquet input.
        batch_size: Images that are classified together.
    """

    work: Work
    folder: RunFolder
    image_column: str
    batch_size: int

    def without_pieces(self) -> "PartWriter":
        """The same for a worker, which is given its pieces one by one; all of them together may be large."""
        return replace(self, work=replace(self.work, pieces=()))

    def write(self, piece: Piece, classifier: Classifier, engine: EarlyExit) -> Counts:
        """Make the part of a piece.

        Args:
            piece: What to do.
            classifier: The model.
            engine: Of the model; its queues run full over the whole piece.

        Returns:
            What became of the images.

        Raises:
            OSError: If the part cannot be written; of a bucket also what botocore raises.
        """
        images = PieceImages(piece, self.work, self.image_column)
        batches = classifier.classify(engine, images, self.batch_size)
        predictions = [prediction for batch in batches for prediction in batch]
        table = predictions_table(predictions)
        for name, column in zip(images.kept.column_names, images.kept.columns, strict=True):
            table = table.append_column(name, column)
        counts = Counts.of_exits((each.exit_index for each in predictions), len(classifier.thresholds))
        write_part(self.folder, piece.number, table, counts)
        return counts
