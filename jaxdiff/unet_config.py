"""The shape of a U-Net: the fields of diffusers' UNet2DModel, with levels for block types, and the paper's Table A."""

import dataclasses

Levels = tuple[int, ...]
CHOICES = {
    "act_fn": ("silu", "mish", "gelu", "relu"),
    "downsample_padding": (0, 1),
    "resnet_time_scale_shift": ("default", "scale_shift"),
    "time_embedding_type": ("positional", "fourier", "learned"),
    "class_embed_type": (None, "timestep", "identity"),
}


@dataclasses.dataclass(frozen=True)
class UNetConfig:
    """The shape of a U-Net. Everything a depth study varies is in the first block of fields.

    block_out_channels: channels of each level, from the image inward; their number is the depth n.
    attention: the levels (1..n) whose down blocks have attention after each ResNet block; up blocks mirror them unless
    up_attention names other levels.
    norm_num_groups: groups of every group norm; must divide every entry of block_out_channels.

    The second block holds what diffusers' UNet2DModel has besides, under its names; Table A leaves it alone. Levels in
    down_resnet are halved, and those in up_resnet doubled, by a ResNet block in place of a convolution.
    attention_head_dim None is one head; attn_norm_num_groups is the mid-block's; dropout acts in training only;
    sample_size is the image size in pixels that the model was made for, and changes nothing.

    Raises ValueError for a value that no U-Net has.
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
        for key, allowed in CHOICES.items():
            if getattr(self, key) not in allowed:
                raise ValueError(
                    f"{key} is {getattr(self, key)!r}; choose one of {', '.join(map(str, allowed))}"
                )
        for key in ("attention", "up_attention", "down_resnet", "up_resnet"):
            if not all(1 <= level <= self.depth for level in getattr(self, key) or ()):
                raise ValueError(
                    f"{key} holds {getattr(self, key)}; the levels are 1 to {self.depth}"
                )
        if self.time_embedding_type == "learned" and not self.num_train_timesteps:
            raise ValueError(
                "time_embedding_type is learned, which needs num_train_timesteps; it is not given"
            )

    @property
    def depth(self) -> int:
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
        """The levels with one channel a group, whose ResNet blocks cannot see the noise level.

        The time embedding is added as a constant a channel just before a group norm, which subtracts it again exactly.
        """
        if self.resnet_time_scale_shift != "default":
            return ()
        return tuple(
            a for a, c in enumerate(self.block_out_channels, 1) if c == self.norm_num_groups
        )

    def bottleneck(self, size: int) -> int:
        """Pixels on a side of the mid-block's activation for images of `size` pixels."""
        return size // 2 ** (self.depth - 1)

    def widened(self, multiplier: float) -> "UNetConfig":
        """The same U-Net with `multiplier` times the channels and the groups, so that channels a group stay.

        Raises ValueError where a level's channels or the groups would not be whole numbers.
        """
        scaled = [multiplier * c for c in (*self.block_out_channels, self.norm_num_groups)]
        if min(scaled) < 1 or any(c != int(c) for c in scaled):
            raise ValueError(
                f"width {multiplier:g} gives channels and groups {[f'{c:g}' for c in scaled]} "
                f"from {[*self.block_out_channels, self.norm_num_groups]}; choose a multiplier that keeps them whole"
            )
        channels = tuple(int(c) for c in scaled[:-1])
        return dataclasses.replace(
            self, block_out_channels=channels, norm_num_groups=int(scaled[-1])
        )

    def check_image_size(self, size: int) -> None:
        """Raise ValueError unless an image of size x size pixels can be halved n - 1 times."""
        factor = 2 ** (self.depth - 1)
        if size < factor or size % factor:
            near = max(factor, factor * round(size / factor))
            raise ValueError(
                f"an image of {size} px cannot be halved {self.depth - 1} times, as depth {self.depth} does; "
                f"use a multiple of {factor} (say {near}) or a shallower model"
            )


@dataclasses.dataclass(frozen=True)
class ConditionalConfig(UNetConfig):
    """The shape of a U-Net that is given a text: diffusers' UNet2DConditionModel, as far as Stable Diffusion 1 has it.

    Where UNetConfig has attention over the pixels, this has a transformer that attends to the text too, of so many
    features a token and so many heads.
    """

    context_features: int = 768
    heads: int = 8


# Table A of the paper. The row "4" is printed with up blocks (Up, Up, AttnUp, Up), which do not give its printed
# count; 3,859,203 needs (Up, AttnUp, Up, Up), the mirror of its encoder, and that is what stands here.
TABLE_A: dict[str, UNetConfig] = {
    # name                     channels of the levels              attention      parameters
    "2":       UNetConfig((32, 64),                           attention=(2,)),  # 1,002,883
    "2-large": UNetConfig((128, 256),                         attention=(2,)),  # 15,930,883
    "3":       UNetConfig((32, 64, 128),                      attention=(2,)),  # 3,692,867
    "4":       UNetConfig((32, 32, 64, 128),                  attention=(3,)),  # 3,859,203
    "5":       UNetConfig((32, 64, 128, 128, 256),            attention=(4,)),  # 16,887,619
    "6":       UNetConfig((32, 64, 128, 128, 256, 256),       attention=(5,)),  # 27,290,691
}  # fmt: skip
