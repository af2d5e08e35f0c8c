"""Subnets of a trained supernet as members of an ensemble of their own."""

from __future__ import annotations

import shutil
from pathlib import Path

from monai.auto3dseg.utils import algo_from_json, algo_to_json
from monai.utils import AlgoKeys

from prox_monai.integrations.auto3dseg.folder import CONFIG, SUPERNET_OF, AlgoFolder, write_config
from prox_monai.integrations.auto3dseg.ranks import device_of
from prox_monai.integrations.auto3dseg.validate import evaluate_trained


def add_subnet(folder: str | Path, subnet: str) -> Path:
    """Put a subnet of a trained algorithm beside it in the work directory, as an algorithm with a score of its own.

    Auto3DSeg finds it there: ``AlgoEnsembleBestN`` then averages subnets of one supernet, or takes the better ones. It
    holds no weights, and is not trained. It is scored on the validation cases unless it was before.

    Args:
        folder: the algorithm's, for example ``work_dir/prox_0``.
        subnet: a name or an alias.

    Returns:
        The new folder, for example ``work_dir/prox_0_smallest``.

    Raises:
        FileNotFoundError: When there is no trained algorithm.
        ValueError: When there is no such subnet.
    """
    source = AlgoFolder.at(folder)
    parameters = source.trained_parameters({"prox_per_bucket": 0})
    algo, _ = algo_from_json(str(source.root / "algo_object.json"))
    entries = source.scores()
    if not any(subnet in (entry["name"], entry["subnet"]) for entry in entries):
        (row,) = evaluate_trained(parameters, source, (subnet,), device_of())
        scored = {"best_avg_dice_score": row["score"] or 0.0, "latency_ms": row["latency_ms"]}
        write_config(source.progress, [{"subnet": row["key"], "name": subnet, **scored}, *entries])
    root = source.root.with_name(f"{source.root.name}_{subnet}")
    shutil.copytree(source.root / "scripts", root / "scripts", dirs_exist_ok=True)
    content = {SUPERNET_OF: f"../{source.root.name}", **source.config(), "subnet": [subnet], "max_latency_ms": 0}
    write_config(root / "configs" / CONFIG, content)
    algo.output_path = str(root)
    algo_to_json(algo, template_path=algo.template_path, **{str(AlgoKeys.SCORE): algo.get_score()})
    return root
