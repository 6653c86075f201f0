"""The shape of a U-Net, with the fields of diffusers' UNet2DModel, and the paper's Table A."""

import dataclasses

Levels = tuple[int, ...]

FIELD_CHOICES = {
    "act_fn": ("silu", "mish", "gelu", "relu"),
    "downsample_padding": (0, 1),
    "resnet_time_scale_shift": ("default", "scale_shift"),
    "time_embedding_type": ("positional", "fourier", "learned"),
    "class_embed_type": (None, "timestep", "identity"),
}
MAX_CHANNELS = 65_536
# Larger numbers than the upper bounds are typing errors, and would take all memory.
FIELD_BOUNDS: dict[str, tuple[float, float]] = {
    "layers_per_block": (1, 64),
    "norm_num_groups": (1, MAX_CHANNELS),
    "attn_norm_num_groups": (1, MAX_CHANNELS),
    "attention_head_dim": (1, MAX_CHANNELS),
    "in_channels": (1, 1024),
    "out_channels": (1, 1024),
    "norm_eps": (0, 1),
    "dropout": (0, 0.999),
    "time_embedding_dim": (1, MAX_CHANNELS),
    "num_train_timesteps": (1, 10_000_000),
    "num_class_embeds": (1, 10_000_000),
}
LEVEL_FIELDS = ("attention", "up_attention", "down_resnet", "up_resnet")


# The order of the fields is that of the JSON in existing files, whose bytes stay as they are.
@dataclasses.dataclass(frozen=True)
class UNetConfig:
    """The shape of a U-Net.

    The fields up to norm_eps hold everything that a depth study varies. The others are the rest of
    diffusers' UNet2DModel, under its names; Table A leaves them at their defaults. Levels count
    from 1, at the image, to n, before the mid-block.

    Parameters
    ----------
    block_out_channels
        Channels of each level, from the image inward; their number is the depth n.
    attention
        Levels whose down blocks have attention after each ResNet block.
    layers_per_block
        ResNet blocks in a down block; an up block has one more.
    norm_num_groups
        Groups of every group norm; it must divide every entry of block_out_channels.
    attention_head_dim
        Channels of an attention head; None is a single head.
    in_channels, out_channels
        Channels of the images that it takes and returns.
    norm_eps
        What every group norm adds to the variance.
    up_attention
        Levels whose up blocks have attention; None: those of `attention`.
    down_resnet, up_resnet
        Levels that are halved, or doubled, by a ResNet block in place of a convolution.
    downsample_padding
        Pixels of padding before the image in down-sampling convolutions.
    act_fn
        Activation: silu, mish, gelu or relu.
    dropout
        Probability that an element is dropped, in training only.
    resnet_time_scale_shift
        How ResNet blocks use the time embedding: added (default) or scale_shift.
    mid_block, add_attention
        Whether there is a mid-block, and whether it has attention.
    attn_norm_num_groups
        Groups of the norm of the mid-block's attention; None: norm_num_groups.
    mid_block_scale_factor
        What the sums in the mid-block are divided by.
    center_input_sample
        Whether the input x becomes 2 x - 1.
    time_embedding_type, time_embedding_dim, flip_sin_to_cos, freq_shift, num_train_timesteps
        Features of the timestep and channels of its embedding (None: four times level 1's).
    class_embed_type, num_class_embeds
        How labels are embedded, and their number; both None: the U-Net has no classes.
    sample_size
        Image size in pixels that the model was made for; it changes nothing in the network.

    Raises
    ------
    ValueError
        For a value that no U-Net has.
    """

    block_out_channels: tuple[int, ...]
    attention: Levels = ()
    layers_per_block: int = 2
    norm_num_groups: int = 32
    attention_head_dim: int | None = 8
    in_channels: int = 3
    out_channels: int = 3
    norm_eps: float = 1e-5

    up_attention: Levels | None = None
    down_resnet: Levels = ()
    up_resnet: Levels = ()
    downsample_padding: int = 1
    act_fn: str = "silu"
    dropout: float = 0.0
    resnet_time_scale_shift: str = "default"
    mid_block: bool = True
    add_attention: bool = True
    attn_norm_num_groups: int | None = None
    mid_block_scale_factor: float = 1.0
    center_input_sample: bool = False
    time_embedding_type: str = "positional"
    time_embedding_dim: int | None = None
    flip_sin_to_cos: bool = True
    freq_shift: float = 0.0
    num_train_timesteps: int | None = None
    class_embed_type: str | None = None
    num_class_embeds: int | None = None
    sample_size: int | tuple[int, int] | None = None

    def __post_init__(self) -> None:
        for name, choices in FIELD_CHOICES.items():
            value = getattr(self, name)
            if value not in choices:
                raise ValueError(
                    f"{name} is {value!r}; choose one of {', '.join(map(str, choices))}"
                )
        self._check_bounds()
        for name in LEVEL_FIELDS:
            levels = getattr(self, name) or ()
            if not all(1 <= level <= self.depth for level in levels):
                raise ValueError(
                    f"{name} must hold levels from 1 to {self.depth}, the number of "
                    f"block_out_channels, got {levels}"
                )
        if self.time_embedding_type == "learned" and not self.num_train_timesteps:
            raise ValueError(
                "num_train_timesteps must be set where time_embedding_type is learned, "
                f"got {self.num_train_timesteps}; set the number of timesteps"
            )

    def _check_bounds(self) -> None:
        channels = self.block_out_channels
        if not channels or not all(1 <= count <= MAX_CHANNELS for count in channels):
            raise ValueError(
                f"block_out_channels must be one number from 1 to {MAX_CHANNELS:,} a level, "
                f"got {channels}"
            )
        for name, (low, high) in FIELD_BOUNDS.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise ValueError(f"{name} must be from {low} to {high:,}, got {value}")

    @property
    def depth(self) -> int:
        """Number of levels, n."""
        return len(self.block_out_channels)

    @property
    def time_channels(self) -> int:
        """Channels of the time embedding."""
        return self.time_embedding_dim or 4 * self.block_out_channels[0]

    @property
    def has_classes(self) -> bool:
        """Whether a call needs class labels."""
        return self.class_embed_type is not None or self.num_class_embeds is not None

    @property
    def time_blind(self) -> Levels:
        """Levels with one channel a group, whose ResNet blocks cannot see the noise level."""
        # The time embedding is added as a constant of each channel just before a group norm; where
        # a channel is a group, the norm subtracts it again exactly.
        if self.resnet_time_scale_shift != "default":
            return ()
        levels = enumerate(self.block_out_channels, 1)
        return tuple(level for level, channels in levels if channels == self.norm_num_groups)

    def bottleneck(self, size: int) -> int:
        """Pixels on a side of the mid-block's activation for images of `size` pixels."""
        return size // 2 ** (self.depth - 1)

    def widened(self, multiplier: float) -> "UNetConfig":
        """The same U-Net with its channels and groups multiplied.

        Channels a group stay the same.

        Raises
        ------
        ValueError
            Where a level's channels or the groups would not be whole numbers.
        """
        sizes = [*self.block_out_channels, self.norm_num_groups]
        scaled = [multiplier * size for size in sizes]
        if min(scaled) < 1 or any(size != int(size) for size in scaled):
            raise ValueError(
                f"width {multiplier:g} gives channels and groups {[f'{s:g}' for s in scaled]} "
                f"from {sizes}; choose a multiplier that keeps them whole"
            )
        channels = tuple(int(size) for size in scaled[:-1])
        groups = int(scaled[-1])
        return dataclasses.replace(self, block_out_channels=channels, norm_num_groups=groups)

    def check_image_size(self, size: int) -> None:
        """Raise ValueError unless images of size x size pixels can be halved n - 1 times."""
        # Up blocks double: an odd side would come back one pixel larger than its skip.
        factor = 2 ** (self.depth - 1)
        if size < factor or size % factor:
            nearest = max(factor, factor * round(size / factor))
            raise ValueError(
                f"an image of {size} px cannot be halved {self.depth - 1} times, as depth "
                f"{self.depth} does; use a multiple of {factor} (say {nearest}) or a shallower "
                "model"
            )


@dataclasses.dataclass(frozen=True)
class ConditionalConfig(UNetConfig):
    """The shape of a U-Net that is given a text: diffusers' UNet2DConditionModel.

    It goes as far as Stable Diffusion 1 does. Where UNetConfig has attention over the pixels, this
    has a transformer that attends to the text too.

    Parameters
    ----------
    context_features
        Features of a token of the text.
    heads
        Heads of every attention of a transformer.
    """

    context_features: int = 768
    heads: int = 8


# Table A of the paper. The row "4" is printed with up blocks (Up, Up, AttnUp, Up), which do not
# give its printed count; 3,859,203 needs (Up, AttnUp, Up, Up), the mirror of its encoder, and that
# is what the row below has.
# The parameters are counted with images of 3 channels.
TABLE_A: dict[str, UNetConfig] = {
    # name                     channels of the levels              attention      parameters
    "2":       UNetConfig((32, 64),                           attention=(2,)),  # 1,002,883
    "2-large": UNetConfig((128, 256),                         attention=(2,)),  # 15,930,883
    "3":       UNetConfig((32, 64, 128),                      attention=(2,)),  # 3,692,867
    "4":       UNetConfig((32, 32, 64, 128),                  attention=(3,)),  # 3,859,203
    "5":       UNetConfig((32, 64, 128, 128, 256),            attention=(4,)),  # 16,887,619
    "6":       UNetConfig((32, 64, 128, 128, 256, 256),       attention=(5,)),  # 27,290,691
}  # fmt: skip
