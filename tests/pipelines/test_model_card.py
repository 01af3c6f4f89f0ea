"""The model card's node: parameters of the models are read from the models themselves."""

from evaluation.report_fixture import report
from evaluation.test_report import DATA, SPLIT
from prismrec.models.comirec import ComiRec, ComiRecConfig
from prismrec.models.sasrec import SASRec, SASRecConfig
from prismrec.pipelines.evaluation import nodes
from prismrec.pipelines.evaluation.pipeline import DESCRIBED, create_pipeline
from serving.bundles import parts


def test_the_card_lists_the_parameters_of_every_trained_model() -> None:
    given = {
        **parts().parts,
        "sasrec": SASRec(SASRecConfig(num_items=9, dim=8, layers=1, heads=2, length=5, dropout=0.1)),
        "comirec": ComiRec(ComiRecConfig(num_items=9, dim=8, num_interests=3, length=5, dropout=0.1)),
        "evaluation_metrics": report(),
        "data_validation_metrics": DATA,
        "sequence_building_metrics": SPLIT,
        "text_encoding": {
            "text_encoder": "packaged",
            "text_encoder_licence": "Apache-2.0",
            "text_encoder_weights_sha256": "53aa",
        },
    }
    (node,) = [node for node in create_pipeline().nodes if node.name == "evaluation.write_model_card"]
    assert set(node.inputs) == set(DESCRIBED)
    card = nodes.write_model_card(**{name: given[name] for name in DESCRIBED})
    section = card.split("## Parameters of the models")[1].split("\n## ")[0]
    for line in (
        "- text encoder: name packaged, licence Apache-2.0, weights_sha256 53aa\n",
        "- codebook: layers 2, codes 8, dim 8\n",
        "- lightweight encoder: dim 8, num_interests 3, hidden 16, kernel 3, dropout 0.0, length 50, positions 0\n",
        "backbone_name scratch, long_from codebook, num_items 60, now True, hidden 16, layers 1, heads 2\n",
        "sizes (3, 3), hidden 16, layers 1, heads 2",
        "- sasrec: num_items 9, dim 8, layers 1",
        "- comirec: num_items 9, dim 8, num_interests 3",
    ):
        assert line in section
    assert section.count("\n- ") == len(DESCRIBED) - 3
