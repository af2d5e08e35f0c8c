"""Train: python scripts/train.py run --config_file configs/hyper_parameters.yaml [--num_epochs 30 ...]"""

from prox_monai.integrations.auto3dseg.train import main, run

__all__ = ["run"]

if __name__ == "__main__":
    main()
