"""nnU-Net as the host: its planned network as an architecture, ``ProXTrainer``, stock model folders."""
