"""Other dimensions for the recorded model folders; the limits of verification were chosen before the last two sets."""

UNET_1, UNET_2 = "channels: [32, 32]", "channels: [32]"
# Changes of the recorded folders' YAML; each is made wherever the text is.
DIMENSIONS: dict[str, list[dict[str, str]]] = {
    "cosyvoice1": [
        {
            UNET_1: "channels: [64, 64]",
            "attention_head_dim: 8": "attention_head_dim: 16",
            "num_mid_blocks: 1": "num_mid_blocks: 3",
            "base_channels: 32": "base_channels: 64",
            "linear_units: 80": "linear_units: 200",
            "num_blocks: 2": "num_blocks: 4",
        },
        {
            UNET_1: "channels: [128, 128]",
            "n_blocks: 1": "n_blocks: 2",
            "num_heads: 4": "num_heads: 2",
            "base_channels: 32": "base_channels: 128",
            "attention_heads: 4": "attention_heads: 2",
        },
        {
            UNET_1: "channels: [48, 48]",
            "attention_head_dim: 8": "attention_head_dim: 24",
            "base_channels: 32": "base_channels: 16",
            "nb_harmonics: 8": "nb_harmonics: 4",
            "attention_heads: 4": "attention_heads: 8",
        },
        {
            UNET_1: "channels: [96, 96]",
            "attention_head_dim: 8": "attention_head_dim: 12",
            "num_mid_blocks: 1": "num_mid_blocks: 2",
            "base_channels: 32": "base_channels: 48",
            "linear_units: 80": "linear_units: 144",
            "num_blocks: 2": "num_blocks: 3",
        },
        {
            UNET_1: "channels: [80, 80]",
            "attention_head_dim: 8": "attention_head_dim: 20",
            "num_mid_blocks: 1": "num_mid_blocks: 4",
            "linear_units: 80": "linear_units: 112",
            "num_blocks: 2": "num_blocks: 5",
        },
    ],
    "cosyvoice2": [
        {
            UNET_2: "channels: [64]",
            "attention_head_dim: 8": "attention_head_dim: 16",
            "num_mid_blocks: 1": "num_mid_blocks: 3",
            "base_channels: 32": "base_channels: 64",
            "linear_units: 80": "linear_units: 200",
            "num_blocks: 2": "num_blocks: 4",
        },
        {
            UNET_2: "channels: [128]",
            "n_blocks: 1": "n_blocks: 2",
            "num_heads: 4": "num_heads: 2",
            "base_channels: 32": "base_channels: 128",
            "attention_heads: 4": "attention_heads: 2",
        },
        {
            UNET_2: "channels: [48]",
            "attention_head_dim: 8": "attention_head_dim: 24",
            "base_channels: 32": "base_channels: 16",
            "nb_harmonics: 8": "nb_harmonics: 4",
            "attention_heads: 4": "attention_heads: 8",
        },
        {
            UNET_2: "channels: [96]",
            "attention_head_dim: 8": "attention_head_dim: 12",
            "num_mid_blocks: 1": "num_mid_blocks: 2",
            "base_channels: 32": "base_channels: 48",
            "linear_units: 80": "linear_units: 144",
            "num_blocks: 2": "num_blocks: 3",
        },
        {
            UNET_2: "channels: [80]",
            "attention_head_dim: 8": "attention_head_dim: 20",
            "num_mid_blocks: 1": "num_mid_blocks: 4",
            "linear_units: 80": "linear_units: 112",
            "num_blocks: 2": "num_blocks: 5",
        },
    ],
    "cosyvoice3": [
        {
            "dim: 64": "dim: 128",
            "depth: 2": "depth: 4",
            "dim_head: 16": "dim_head: 32",
            "base_channels: 32": "base_channels: 64",
        },
        {
            "depth: 2": "depth: 6",
            "ff_mult: 2": "ff_mult: 4",
            "base_channels: 32": "base_channels: 128",
        },
        {
            "heads: 4": "heads: 8",
            "base_channels: 32": "base_channels: 16",
            "nb_harmonics: 8": "nb_harmonics: 4",
        },
        {
            "dim: 64": "dim: 96",
            "heads: 4": "heads: 6",
            "depth: 2": "depth: 3",
            "base_channels: 32": "base_channels: 48",
        },
        {
            "dim: 64": "dim: 80",
            "heads: 4": "heads: 5",
            "depth: 2": "depth: 5",
            "ff_mult: 2": "ff_mult: 3",
            "base_channels: 32": "base_channels: 80",
        },
    ],
}
