"""Tiny keras_hub backbones that read several things: text with images, sound, latents; by name."""

from __future__ import annotations

from typing import Any

import hub_text
import hub_vision
import keras_hub
import numpy as np
from hub_text import GROUPED, PLAIN

hub, layers = keras_hub.models, keras_hub.layers

VISION: dict[str, Any] = {
    "patch_size": 8, "hidden_dim": 8, "num_layers": 2, "num_heads": 2, "intermediate_dim": 12,
}  # fmt: skip
TEXT = PLAIN | {"embedding_dim": 8, "max_sequence_length": 9}
IMAGE = (16, 16, 3)


def _blip2_parts():
    from keras_hub.src.models.blip2.blip2_qformer import BLIP2QFormer
    from keras_hub.src.models.blip2.blip2_vision_encoder import BLIP2VisionEncoder

    vision = BLIP2VisionEncoder(
        image_size=16, **VISION, use_patch_bias=True, use_class_token=True, use_mha_bias=True,
        use_mlp_bias=True, dropout_rate=0.0, layer_norm_epsilon=1e-6, initializer_range=0.02,
    )  # fmt: skip
    former = BLIP2QFormer(
        num_query_tokens=3, num_layers=2, num_heads=2, hidden_dim=8, intermediate_dim=12,
        vision_dim=8, cross_attention_frequency=2, dropout=0.0, layer_norm_epsilon=1e-12,
    )  # fmt: skip
    return {"vision_encoder": vision, "qformer": former}


def blip2_opt():
    from keras_hub.src.models.blip2.blip2_custom_opt import BLIP2CustomOPT

    language = BLIP2CustomOPT(
        **PLAIN, num_query_tokens=3, dropout=0.0, max_sequence_length=16, qformer_hidden_dim=8
    )
    return hub.BLIP2Backbone(**_blip2_parts(), language_model=language)


def blip2_t5():
    from keras_hub.src.models.blip2.blip2_flan_t5_lm import BLIP2FlanT5

    language = BLIP2FlanT5(**PLAIN, num_query_tokens=3, qformer_hidden_dim=8)
    return hub.BLIP2Backbone(**_blip2_parts(), language_model=language)


def clip():
    from keras_hub.src.models.clip.clip_text_encoder import CLIPTextEncoder
    from keras_hub.src.models.clip.clip_vision_encoder import CLIPVisionEncoder

    vision, text = CLIPVisionEncoder(**VISION, image_shape=IMAGE), CLIPTextEncoder(**TEXT)
    return hub.CLIPBackbone(vision, text, projection_dim=6)


def metaclip():
    from keras_hub.src.models.metaclip_2.metaclip_2_text_encoder import MetaCLIP2TextEncoder
    from keras_hub.src.models.metaclip_2.metaclip_2_vision_encoder import MetaCLIP2VisionEncoder

    vision = MetaCLIP2VisionEncoder(**VISION, image_shape=IMAGE)
    return hub.MetaCLIP2Backbone(vision, MetaCLIP2TextEncoder(**TEXT), projection_dim=6)


def siglip():
    from keras_hub.src.models.siglip.siglip_text_encoder import SigLIPTextEncoder
    from keras_hub.src.models.siglip.siglip_vision_encoder import SigLIPVisionEncoder

    vision = SigLIPVisionEncoder(**VISION, image_shape=IMAGE)
    return hub.SigLIPBackbone(vision, SigLIPTextEncoder(**TEXT, projection_dim=8))


def flux():
    from keras_hub.src.models.flux.flux_model import FluxBackbone

    return FluxBackbone(
        input_channels=8, hidden_size=16, mlp_ratio=2.0, num_heads=2, depth=1, depth_single_blocks=1,
        axes_dim=[2, 2, 4], theta=10000, use_bias=True, image_shape=(4, 8), text_shape=(3, 6),
        image_ids_shape=(4, 3), text_ids_shape=(3, 3), y_shape=(7,),
    )  # fmt: skip


def stable_diffusion():
    from keras_hub.src.models.clip.clip_text_encoder import CLIPTextEncoder

    large, small = (
        CLIPTextEncoder(**TEXT, intermediate_output_index=0, name=name)
        for name in ("clip_l", "clip_g")
    )
    from keras_hub.src.models.vae.vae_backbone import VAEBackbone

    vae = VAEBackbone(
        encoder_num_filters=[32, 32, 32, 32], encoder_num_blocks=[1, 1, 1, 1],
        decoder_num_filters=[32, 32, 32, 32], decoder_num_blocks=[1, 1, 1, 1],
        sampler_method="mode", sample_channels=32, name="vae",
    )  # fmt: skip
    return hub.StableDiffusion3Backbone(
        mmdit_patch_size=2, mmdit_hidden_dim=16, mmdit_num_layers=2, mmdit_num_heads=2,
        mmdit_position_size=8, mmdit_qk_norm=None, mmdit_dual_attention_indices=None, vae=vae,
        clip_l=large, clip_g=small, image_shape=(32, 32, 3),
    )  # fmt: skip


def mmdit():
    from keras_hub.src.models.stable_diffusion_3.mmdit import MMDiT

    return MMDiT(
        patch_size=2, hidden_dim=16, num_layers=2, num_heads=2, position_size=8,
        latent_shape=(8, 8, 4), context_shape=(None, 6), pooled_projection_shape=(5,),
        qk_norm="rms_norm", dual_attention_indices=(0,),
    )  # fmt: skip


def gemma3():
    from keras_hub.src.models.gemma3.gemma3_vision_encoder import Gemma3VisionEncoder

    encoder = Gemma3VisionEncoder(
        image_size=16, patch_size=4, num_heads=2, hidden_dim=8, num_layers=1, intermediate_dim=12,
        output_dim=16, pool_size=2,
    )  # fmt: skip
    return hub.Gemma3Backbone(**GROUPED, image_size=16, head_dim=4, vision_encoder=encoder)


def gemma4():
    from keras_hub.src.models.gemma4.gemma4_vision_encoder import Gemma4VisionEncoder

    encoder = Gemma4VisionEncoder(
        image_size=16, patch_size=4, num_heads=2, hidden_dim=8, num_layers=1, intermediate_dim=12,
        head_dim=4, output_dim=16, pool_size=2, position_embedding_size=16,
    )  # fmt: skip
    return hub.Gemma4Backbone(
        **GROUPED, image_size=16, head_dim=4, sliding_window_size=4, sliding_window_pattern=2,
        vision_encoder=encoder,
    )  # fmt: skip


def moonshine():
    return hub.MoonshineBackbone(
        vocabulary_size=24, filter_dim=16, encoder_num_layers=1, decoder_num_layers=1,
        hidden_dim=16, intermediate_dim=24, encoder_num_heads=2, decoder_num_heads=2,
        partial_rotary_factor=0.5,
    )  # fmt: skip


def whisper():
    return hub.WhisperBackbone(
        **PLAIN, num_mels=5, max_encoder_sequence_length=20, max_decoder_sequence_length=10
    )


def pali_gemma():
    return hub.PaliGemmaBackbone(
        **GROUPED, image_size=16, head_dim=4, vit_patch_size=4, vit_num_heads=2, vit_hidden_dim=8,
        vit_num_layers=1, vit_intermediate_dim=12,
    )  # fmt: skip


def parseq():
    encoder = hub.ViTBackbone(
        image_shape=(16, 32, 3), patch_size=(8, 8), num_layers=1, num_heads=2, hidden_dim=8,
        mlp_dim=12, use_class_token=False,
    )  # fmt: skip
    return hub.PARSeqBackbone(
        image_encoder=encoder, vocabulary_size=24, max_label_length=12, decoder_hidden_dim=8,
        num_decoder_layers=1, num_decoder_heads=2, decoder_mlp_dim=12,
    )  # fmt: skip


def sam():
    return hub.SAMBackbone(
        image_encoder=hub_vision.vit_det(),
        prompt_encoder=layers.SAMPromptEncoder(
            hidden_size=8, image_embedding_size=(8, 8), input_image_size=(64, 64),
            mask_in_channels=4,
        ),
        mask_decoder=layers.SAMMaskDecoder(
            hidden_size=8, num_layers=1, intermediate_dim=12, num_heads=2, embedding_dim=8,
            num_multimask_outputs=2, iou_head_depth=2, iou_head_hidden_dim=8,
        ),
    )  # fmt: skip


def sam3():
    size: dict[str, Any] = {
        "num_layers": 1, "hidden_dim": 16, "intermediate_dim": 16, "num_heads": 2,
    }  # fmt: skip
    return hub.SAM3PromptableConceptBackbone(
        vision_encoder=layers.SAM3VisionEncoder(
            image_shape=(56, 56, 3), patch_size=14, **size, fpn_hidden_dim=16,
            fpn_scale_factors=[4.0, 2.0, 1.0, 0.5], pretrain_image_shape=(28, 28, 3),
            window_size=2, global_attn_indexes=[0],
        ),
        text_encoder=layers.SAM3TextEncoder(
            vocabulary_size=24, embedding_dim=16, **size, max_sequence_length=12
        ),
        geometry_encoder=layers.SAM3GeometryEncoder(**size, roi_size=3),
        detr_encoder=layers.SAM3DetrEncoder(**size),
        detr_decoder=layers.SAM3DetrDecoder(
            image_shape=(56, 56, 3), patch_size=14, **size, num_queries=4
        ),
        mask_decoder=layers.SAM3MaskDecoder(num_upsampling_stages=2, hidden_dim=16, num_heads=2),
    )  # fmt: skip


def t5gemma2():
    from keras_hub.src.models.gemma3.gemma3_vision_encoder import Gemma3VisionEncoder

    encoder = Gemma3VisionEncoder(
        image_size=16, patch_size=4, num_heads=2, hidden_dim=8, num_layers=1, intermediate_dim=12,
        output_dim=8, pool_size=2,
    )  # fmt: skip
    return hub.T5Gemma2Backbone(
        vocabulary_size=24, **hub_text.SIDES, sliding_window=4, vision_encoder=encoder,
        eoi_token_index=23,
    )  # fmt: skip


def video_prism():
    return hub.VideoPrismBackbone(
        num_frames=3, patch_size=8, hidden_dim=8, intermediate_dim=12, num_heads=2,
        num_spatial_layers=1, num_temporal_layers=1, num_auxiliary_layers=1, image_shape=IMAGE,
        vocabulary_size=24, num_text_layers=1,
    )  # fmt: skip


MAKERS = {
    "BLIP2 OPT": blip2_opt, "BLIP2 T5": blip2_t5, "CLIP": clip, "MetaCLIP2": metaclip,
    "SigLIP": siglip, "Flux": flux, "StableDiffusion3": stable_diffusion, "MMDiT": mmdit,
    "Gemma3": gemma3, "Gemma4": gemma4, "Moonshine": moonshine, "Whisper": whisper,
    "PaliGemma": pali_gemma, "PARSeq": parseq, "SAM": sam, "SAM3": sam3,
    "T5Gemma2 with images": t5gemma2, "VideoPrism with text": video_prism,
}  # fmt: skip


def shape_of(name: str, tensor: Any, size: tuple[int, int]) -> list[int] | None:
    """Return the shape of an input whose unknown sizes are not lengths of text; None for others."""
    batch, length = size
    known = {
        "images": [batch, 1, 16, 16, 3],  # one image each
        "vision_indices": [batch, 4],
        "pixel_position_ids": [batch, 1, 16, 2],
        "pixel_values": [batch, 1, 16, 48],
        "encoder_input_values": [batch, 500 * length, 1],
        "encoder_features": [batch, 2 * length, 5],
        "points": [batch, 1, 2],
        "labels": [batch, 1],
        "boxes": [batch, 1, *tensor.shape[2:]],
        "box_labels": [batch, 1],
        "masks": [batch, 0, 32, 32, 1],
    }.get(name)
    shape = tensor.shape
    if known is None or len(known) != len(shape):
        return None
    fits = all(a in (None, b) for a, b in zip(shape, known, strict=True))
    return known if fits and None in shape[1:] else None


def values_of(name: str, shape: list[int]) -> Any:
    """Return the values of an input that says where something is; None for others."""
    if name == "pixel_position_ids":
        grid = np.stack(np.meshgrid(np.arange(4), np.arange(4), indexing="ij"), -1)
        return np.broadcast_to(grid.reshape(1, 1, 16, 2), shape)
    if name == "boxes":
        return np.full(shape, 0.25)
    if name == "num_steps":
        return np.full(shape, 2)
    return None
