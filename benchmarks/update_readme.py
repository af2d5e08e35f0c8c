"""Write the results of README.md, and all of them into benchmarks/RESULTS.md, from the figures in benchmarks/results.

make demo DATA=/path/to/Task04_Hippocampus
python benchmarks/update_readme.py runs/demo    take the figures of that run into benchmarks/results, then write
python benchmarks/update_readme.py              write what is in benchmarks/results; paper.py does it by itself
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import device_lines
import training_lines

from prox_monai.data.complete import complete_file

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "benchmarks" / "RESULTS.md"
BEGIN = "<!-- results: written by benchmarks/update_readme.py -->\n"
END = "<!-- end of results -->\n"


def collect(run: Path) -> None:
    """Condense a finished demo into ``demo_hippocampus.json`` and keep its pictures."""
    rows = [json.loads(line) for line in (run / "subnets.jsonl").read_text().splitlines()]
    record = json.loads((run / "demo.json").read_text())
    phases = json.loads(next(run.glob("nnUNet_results/*/*/fold_0/phases.json")).read_text())
    fields = ("name", "key", "parameters", "macs", "latency_ms", "dice", "dice_per_label")
    result = {
        "command": "make demo DATA=/path/to/Task04_Hippocampus",
        "cases": len(rows[0]["dice_per_case"]),
        "measured_on": rows[0]["latency"],
        "minutes": {step: seconds / 60 for step, seconds in record["seconds"].items()},
        "train_seconds": sum(phase["train_seconds"] for phase in phases),
        "phases": [{key: phase[key] for key in phase if key != "space"} for phase in phases],
        "settings": (run / "settings.yaml").read_text(),
        "subnets": [{field: row[field] for field in fields} for row in rows],
    }
    (RESULTS / "demo_hippocampus.json").write_text(json.dumps(result, indent=2) + "\n")
    shutil.copyfile(run / "pareto.png", RESULTS / "demo_hippocampus_pareto.png")


def table() -> str:
    """Return the text between the marks of README.md: what a newcomer wants to know."""
    page = PAGE.relative_to(ROOT)
    lines = [
        *training_lines.demo_lines(RESULTS),
        *training_lines.comparison_headline(RESULTS),
        *device_lines.deploy_headline(RESULTS),
        "",
        f"All results, each with its command, are in [{page}]({page}): {', '.join(sections())}.",
    ]
    return "\n".join(lines) + "\n"


def sections() -> dict[str, list[str]]:
    """Return the lines of all results by what they are on."""
    sizes = ("", "_full")
    found = {
        "the demo": [*training_lines.demo_lines(RESULTS), *training_lines.expansion_lines(RESULTS)],
        "trainings compared": [line for size in sizes for line in training_lines.paper_lines(RESULTS, size)],
        "subnets trained alone": [line for size in sizes for line in training_lines.ranking_lines(RESULTS, size)],
        "a subnet for a device": device_lines.deploy_lines(RESULTS),
        "its compression": device_lines.compression_lines(RESULTS),
        "search and predicted latency": device_lines.search_lines(RESULTS),
        "two processes": device_lines.two_processes_lines(RESULTS),
        "MONAI bundles": training_lines.bundle_lines(RESULTS),
        "the OCT classifier": device_lines.oct_lines(RESULTS),
        "Auto3DSeg": device_lines.auto3dseg_lines(RESULTS),
        "a training step": training_lines.step_cost_lines(RESULTS),
        "the layout of kernels": device_lines.memory_format_lines(RESULTS),
        "single images": device_lines.single_image_lines(RESULTS),
        "reversible blocks": device_lines.reversible_lines(RESULTS),
    }
    return {title: lines for title, lines in found.items() if lines}


def results_page() -> str:
    """Return the text of RESULTS.md."""
    lines = ["# Results", "", f"Written by `{Path(__file__).relative_to(ROOT)}` from [results](results)."]
    for title, about in sections().items():
        lines += ["", f"## {title[0].upper()}{title[1:]}", *about]
    return "\n".join(lines).replace(f"]({PAGE.parent.name}/", "](") + "\n"


def write_readme() -> None:
    """Write the text between the marks into README.md, and all of RESULTS.md."""
    readme = ROOT / "README.md"
    before, _, rest = readme.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    with complete_file(readme) as partial:
        partial.write_text(before + BEGIN + table() + "\n" + END + after)
    with complete_file(PAGE) as partial:
        partial.write_text(results_page())


def main() -> None:
    """Update results, README and the page of all results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", type=Path, help="folder of a finished demo on real data")
    run = parser.parse_args().run
    if run is not None:
        collect(run)
    write_readme()


if __name__ == "__main__":
    main()
