"""Evaluate subnets: python scripts/validate.py run --config_file configs/hyper_parameters.yaml [--subnet middle ...]"""

from prox_monai.integrations.auto3dseg.validate import main, run

__all__ = ["run"]

if __name__ == "__main__":
    main()
