"""Tiny keras_hub backbones that read images or features, by name.

Where a class takes images of any size, height and width are unknown.
"""

from __future__ import annotations

from typing import Any

import keras_hub

hub = keras_hub.models

ANY = (None, None, 3)
SMALL = (32, 32, 3)
PATCHES: dict[str, Any] = {"patch_size": 8, "num_layers": 2, "num_heads": 2, "hidden_dim": 8}


def resnet(image_shape=ANY, levels=2):
    return hub.ResNetBackbone(
        input_conv_filters=[64], input_conv_kernel_sizes=[3],
        stackwise_num_filters=[64, 8, 8, 8][:levels], stackwise_num_blocks=[1] * levels,
        stackwise_num_strides=[1, 2, 2, 2][:levels], block_type="basic_block",
        image_shape=image_shape,
    )  # fmt: skip


def resnet_bottleneck():
    return hub.ResNetBackbone(
        input_conv_filters=[64], input_conv_kernel_sizes=[7], stackwise_num_filters=[64, 16],
        stackwise_num_blocks=[1, 1], stackwise_num_strides=[1, 2], block_type="bottleneck_block",
        use_pre_activation=True,
    )  # fmt: skip


def basnet():
    return hub.BASNetBackbone(
        image_encoder=hub.ResNetBackbone(
            input_conv_filters=[64], input_conv_kernel_sizes=[7],
            stackwise_num_filters=[64, 128, 256, 512], stackwise_num_blocks=[1, 1, 1, 1],
            stackwise_num_strides=[1, 2, 2, 2], block_type="basic_block",
        ),
        num_classes=1, image_shape=(64, 64, 3), projection_filters=64,
    )  # fmt: skip


def cspnet():
    return hub.CSPNetBackbone(
        stem_filters=8, stem_kernel_size=3, stem_strides=2, stackwise_depth=[1, 2],
        stackwise_strides=[1, 2], stackwise_num_filters=[8, 16], block_type="dark_block",
        stage_type="dark",
    )  # fmt: skip


def deeplab():
    return hub.DeepLabV3Backbone(
        image_encoder=resnet(SMALL), spatial_pyramid_pooling_key="P3", low_level_feature_key="P2",
        upsampling_size=2, dilation_rates=[2, 3], projection_filters=4, image_shape=SMALL,
    )  # fmt: skip


def deit():
    return hub.DeiTBackbone(image_shape=SMALL, **PATCHES, intermediate_dim=12)


def densenet():
    return hub.DenseNetBackbone(stackwise_num_repeats=[1, 2], growth_rate=4)


def depth_anything():
    return hub.DepthAnythingBackbone(
        image_encoder=dinov2(), reassemble_factors=[2, 1], neck_hidden_dims=[4, 8],
        fusion_hidden_dim=4, head_hidden_dim=4, head_in_index=-1, feature_keys=["stage1", "stage2"],
    )  # fmt: skip


def d_fine():
    encoder = hub.HGNetV2Backbone(
        **_hgnet(), out_features=["stage3", "stage4"], image_shape=(64, 64, 3)
    )
    return hub.DFineBackbone(
        backbone=encoder, decoder_in_channels=[8, 8], encoder_hidden_dim=8, num_labels=3,
        num_denoising=0, learn_initial_query=False, num_queries=5, anchor_image_size=(64, 64),
        feat_strides=[16, 32], num_feature_levels=2, hidden_dim=8, encoder_in_channels=[16, 16],
        encode_proj_layers=[1], num_attention_heads=2, encoder_ffn_dim=12, num_encoder_layers=1,
        hidden_expansion=0.5, depth_multiplier=0.4, eval_idx=-1, num_decoder_layers=2,
        decoder_attention_heads=2, decoder_ffn_dim=12, decoder_n_points=[2, 2], lqe_hidden_dim=8,
        num_lqe_layers=2, image_shape=(64, 64, 3), out_features=["stage3", "stage4"], seed=0,
    )  # fmt: skip


def dinov2():
    return hub.DINOV2Backbone(
        **PATCHES, intermediate_dim=12, image_shape=SMALL, position_embedding_shape=SMALL,
        num_register_tokens=2,
    )  # fmt: skip


def dinov3():
    return hub.DINOV3Backbone(**PATCHES, intermediate_dim=12, image_shape=SMALL)


def efficientnet():
    return hub.EfficientNetBackbone(
        stackwise_width_coefficients=[1.0] * 3, stackwise_depth_coefficients=[1.0] * 3,
        stackwise_kernel_sizes=[3, 3, 5], stackwise_num_repeats=[1, 1, 2],
        stackwise_input_filters=[8, 8, 8], stackwise_output_filters=[8, 8, 16],
        stackwise_expansion_ratios=[1, 4, 4], stackwise_squeeze_and_excite_ratios=[0.25, 0, 0.25],
        stackwise_strides=[1, 2, 2], stackwise_block_types=["v1", "fused", "unfused"],
        stackwise_force_input_filters=[0] * 3, stackwise_nores_option=[False] * 3, num_features=16,
    )  # fmt: skip


def _hgnet():
    return {
        "stem_channels": [3, 4, 8], "embedding_size": 8, "hidden_act": "relu",
        "stackwise_stage_filters": [
            [8, 4, 8, 1, 2, 3], [8, 4, 8, 1, 2, 3], [8, 8, 16, 1, 2, 3], [16, 8, 16, 1, 2, 5]
        ],
        "depths": [1, 1, 1, 1], "hidden_sizes": [8, 8, 16, 16],
        "apply_downsample": [False, True, True, True],
        "use_lightweight_conv_block": [False, False, True, True],
        "use_learnable_affine_block": True,
    }  # fmt: skip


def hgnet():
    return hub.HGNetV2Backbone(**_hgnet())


def mit(image_shape=SMALL):
    return hub.MiTBackbone(
        layerwise_depths=[1, 2], num_layers=2, layerwise_num_heads=[1, 2],
        layerwise_sr_ratios=[2, 1], max_drop_path_rate=0.1, layerwise_patch_sizes=[7, 3],
        layerwise_strides=[4, 2], hidden_dims=[8, 12], image_shape=image_shape,
    )  # fmt: skip


def mobilenet():
    return hub.MobileNetBackbone(
        stackwise_expansion=[[8, 16], [16]], stackwise_num_blocks=[2, 1],
        stackwise_num_filters=[[8, 8], [16]], stackwise_kernel_size=[[3, 3], [5]],
        stackwise_num_strides=[[2, 1], [2]], stackwise_se_ratio=[[0.25, None], [0.25]],
        stackwise_activation=[["relu", "relu"], ["hard_swish"]], stackwise_padding=[[1, 1], [2]],
        output_num_filters=16, depthwise_filters=8, depthwise_stride=2, depthwise_residual=False,
        last_layer_filter=16, squeeze_and_excite=0.5, input_num_filters=8,
    )  # fmt: skip


def mobilenet_v5():
    def each(first: Any, second: Any) -> list[list[Any]]:
        return [[first], [second]]

    return hub.MobileNetV5Backbone(
        stackwise_block_types=each("er", "mqa"), stackwise_num_blocks=[1, 1],
        stackwise_num_filters=each(8, 8), stackwise_strides=each(2, 1),
        stackwise_act_layers=each("gelu", "gelu"), stackwise_exp_ratios=each(2.0, 1.0),
        stackwise_se_ratios=each(0.0, 0.0), stackwise_dw_kernel_sizes=each(0, 3),
        stackwise_dw_start_kernel_sizes=each(0, 0), stackwise_dw_end_kernel_sizes=each(0, 0),
        stackwise_exp_kernel_sizes=each(3, 0), stackwise_pw_kernel_sizes=each(1, 0),
        stackwise_num_heads=each(0, 2), stackwise_key_dims=each(0, 4),
        stackwise_value_dims=each(0, 4), stackwise_kv_strides=each(0, 1),
        stackwise_use_cpe=each(False, False), stem_size=8, num_features=16, image_shape=SMALL,
        msfa_output_resolution=4,
    )  # fmt: skip


def retinanet():
    return hub.RetinaNetBackbone(
        image_encoder=resnet(levels=4), min_level=3, max_level=5, use_p5=False,
        image_shape=(128, 128, 3),
    )  # fmt: skip


def rqvae():
    from keras_hub.src.models.rqvae.rqvae_backbone import RQVAEBackbone  # not exported in 0.32

    return RQVAEBackbone(
        input_dim=12, encoder_layer_dims=[8, 6], output_dim=4, decoder_layer_dims=[6, 8],
        num_embeddings=5, num_quantizers=2,
    )  # fmt: skip


def segformer():
    return hub.SegFormerBackbone(image_encoder=mit(), projection_filters=8)


def swin():
    return hub.SwinTransformerBackbone(
        image_shape=SMALL, embed_dim=8, depths=(2, 2), num_heads=(2, 2), window_size=4,
    )  # fmt: skip


def vae():
    from keras_hub.src.models.vae.vae_backbone import VAEBackbone  # not exported in 0.32

    return VAEBackbone(
        encoder_num_filters=[32, 32], encoder_num_blocks=[1, 1], decoder_num_filters=[32, 32],
        decoder_num_blocks=[1, 1], sampler_method="mode", sample_channels=4,
    )  # fmt: skip


def vgg():
    return hub.VGGBackbone(stackwise_num_repeats=[1, 2], stackwise_num_filters=[4, 8])


def video_prism():
    return hub.VideoPrismBackbone(
        num_frames=3, patch_size=8, hidden_dim=8, intermediate_dim=12, num_heads=2,
        num_spatial_layers=2, num_temporal_layers=1, num_auxiliary_layers=1, image_shape=(16, 16, 3),
    )  # fmt: skip


def vit():
    return hub.ViTBackbone(image_shape=SMALL, **PATCHES, mlp_dim=12)


def vit_det(image_shape=(64, 64, 3)):
    return hub.ViTDetBackbone(
        hidden_size=8, num_layers=2, intermediate_dim=12, num_heads=2, window_size=2,
        global_attention_layer_indices=[1], image_shape=image_shape, patch_size=8,
        num_output_channels=8,
    )  # fmt: skip


def xception():
    return hub.XceptionBackbone(
        stackwise_conv_filters=[[4, 8], [12, 12], [8]], stackwise_pooling=[False, True, False]
    )


MAKERS = {
    "BASNet": basnet, "CSPNet": cspnet, "DeepLabV3": deeplab, "DeiT": deit, "DenseNet": densenet,
    "DepthAnything": depth_anything, "DFine": d_fine, "DINOV2": dinov2, "DINOV3": dinov3,
    "EfficientNet": efficientnet, "HGNetV2": hgnet, "MiT": mit, "MobileNet": mobilenet,
    "MobileNetV5": mobilenet_v5, "ResNet": resnet, "ResNet bottleneck": resnet_bottleneck,
    "RetinaNet": retinanet, "RQVAE": rqvae, "SegFormer": segformer, "Swin": swin, "VAE": vae,
    "VGG": vgg, "VideoPrism": video_prism, "ViT": vit, "ViTDet": vit_det, "Xception": xception,
}  # fmt: skip
