"""One small call of each layer and op that multiplies, with its multiply-adds counted by hand."""

from keras import layers, ops

B, T, F, U = 1, 6, 5, 4
IMAGE = (9, 7, 6)


def einsum(x):
    return ops.einsum("bij,bkj->bik", x, x)


CASES = [
    # name, function of tensors, the shapes of its inputs without the batch, multiply-adds, of
    # which padding. An integer dtype stands in front of the shape.
    ("dense", layers.Dense(U), [(T, F)], T * F * U, 0),
    ("einsum_dense", layers.EinsumDense("abc,cde->abde", (None, 3, 2), bias_axes="e"), [(T, F)],
     T * F * 3 * 2, 0),
    ("einsum_dense_dots", layers.EinsumDense("...x,xy->...y", U), [(3, T, F)], 3 * T * F * U, 0),
    ("einsum_dense_out", layers.EinsumDense("abcd,cde->abe", (None, F)), [(T, 3, 2)],
     T * 3 * 2 * F, 0),
    ("conv1d", layers.Conv1D(U, 3), [(T, F)], (T - 2) * 3 * F * U, 0),
    ("conv1d_causal", layers.Conv1D(U, 3, padding="causal", dilation_rate=2), [(T, F)],
     T * 3 * F * U, (2 + 4) * F * U),
    ("conv2d", layers.Conv2D(U, 3), [IMAGE], 7 * 5 * 9 * 6 * U, 0),
    ("conv2d_same", layers.Conv2D(U, 3, padding="same"), [IMAGE], 9 * 7 * 9 * 6 * U,
     (9 * 7 * 9 - (27 - 2) * (21 - 2)) * 6 * U),
    ("conv2d_stride", layers.Conv2D(U, 3, strides=2), [IMAGE], 4 * 3 * 9 * 6 * U, 0),
    ("conv2d_groups", layers.Conv2D(U, 3, groups=2), [IMAGE], 7 * 5 * 9 * 3 * U, 0),
    ("conv3d", layers.Conv3D(2, 2), [(4, 5, 3, 2)], 3 * 4 * 2 * 8 * 2 * 2, 0),
    ("depthwise1d", layers.DepthwiseConv1D(3, depth_multiplier=2), [(T, F)],
     (T - 2) * F * 2 * 3, 0),
    ("depthwise2d", layers.DepthwiseConv2D(3, depth_multiplier=2), [IMAGE], 7 * 5 * 12 * 9, 0),
    ("separable1d", layers.SeparableConv1D(U, 3), [(T, F)], (T - 2) * F * (3 + U), 0),
    ("separable2d", layers.SeparableConv2D(U, 3, depth_multiplier=2), [IMAGE],
     7 * 5 * 12 * (9 + U), 0),
    ("transpose1d", layers.Conv1DTranspose(U, 3, strides=2), [(T, F)], T * F * 3 * U, 0),
    ("transpose2d", layers.Conv2DTranspose(U, 2, strides=2), [IMAGE], 9 * 7 * 6 * 4 * U, 0),
    ("transpose2d_same", layers.Conv2DTranspose(U, 3, strides=2, padding="same"), [IMAGE],
     9 * 7 * 6 * 9 * U, (9 * 7 * 9 - 26 * 20) * 6 * U),
    ("transpose3d", layers.Conv3DTranspose(2, 2, strides=2), [(4, 5, 3, 2)], 4 * 5 * 3 * 2 * 8 * 2, 0),
    ("embedding", layers.Embedding(11, U), [("int32", T)], 0, 0),
    ("simple_rnn", layers.SimpleRNN(U), [(T, F)], T * U * (F + U), 0),
    ("lstm", layers.LSTM(U, return_sequences=True), [(T, F)], T * 4 * U * (F + U), 0),
    ("gru", layers.GRU(U), [(T, F)], T * 3 * U * (F + U), 0),
    ("gru_plain", layers.GRU(U, reset_after=False), [(T, F)], T * 3 * U * (F + U), 0),
    ("rnn_cell", layers.RNN(layers.LSTMCell(U)), [(T, F)], T * 4 * U * (F + U), 0),
    ("rnn_cells", layers.RNN([layers.GRUCell(U), layers.SimpleRNNCell(3)]), [(T, F)],
     T * (3 * U * (F + U) + 3 * (U + 3)), 0),
    ("bidirectional", layers.Bidirectional(layers.LSTM(U)), [(T, F)], 2 * T * 4 * U * (F + U), 0),
    ("time_distributed", layers.TimeDistributed(layers.Conv1D(U, 3)), [(3, T, F)],
     3 * (T - 2) * 3 * F * U, 0),
    ("conv_lstm1d", layers.ConvLSTM1D(U, 3), [(3, T, F)], 3 * (T - 2) * 4 * U * 3 * (F + U), None),
    ("conv_lstm2d", layers.ConvLSTM2D(U, 3), [(3, *IMAGE)], 3 * 35 * 4 * U * 9 * (6 + U), None),
    ("conv_lstm3d", layers.ConvLSTM3D(2, 2), [(2, 4, 5, 3, 2)], 2 * 24 * 8 * 8 * (2 + 2), None),
    ("multi_head", lambda x, y: layers.MultiHeadAttention(2, 3)(x, y), [(T, F), (3, 7)],
     T * F * 6 + 2 * 3 * 7 * 6 + 2 * T * 3 * (3 + 3) + T * 6 * F, 0),
    ("multi_head_axes", lambda x: layers.MultiHeadAttention(2, 3, attention_axes=(2,))(x, x),
     [(3, T, F)], 3 * (4 * T * F * 6 + 2 * T * T * 6), 0),
    ("grouped_query", lambda x, y: layers.GroupQueryAttention(4, 4, 2)(x, y), [(T, F), (3, F)],
     T * F * 16 + 2 * 3 * F * 8 + 2 * T * 3 * 16 + T * 16 * F, 0),
    ("attention", lambda x, y: layers.Attention()([x, y]), [(T, F), (3, F)], 2 * T * 3 * F, 0),
    ("additive", lambda x, y: layers.AdditiveAttention()([x, y]), [(T, F), (3, F)], T * 3 * F, 0),
    ("dot", lambda x, y: layers.Dot(axes=2)([x, y]), [(T, F), (3, F)], T * 3 * F, 0),
    ("spectral", layers.SpectralNormalization(layers.Dense(U)), [(T, F)], T * F * U, 0),
    ("matmul", lambda x, y: ops.matmul(x, ops.transpose(y, (0, 2, 1))), [(T, F), (3, F)], T * 3 * F, 0),
    ("einsum", einsum, [(T, F)], T * T * F, 0),
    ("tensordot", lambda x: ops.tensordot(x, ops.ones((F, U)), axes=1), [(T, F)], T * F * U, 0),
    ("op_conv", lambda x: ops.conv(x, ops.ones((3, 3, 6, U)), 2, "same"), [IMAGE],
     5 * 4 * 9 * 6 * U, (5 * 4 * 9 - 13 * 10) * 6 * U),
    ("op_depthwise", lambda x: ops.depthwise_conv(x, ops.ones((3, 3, 6, 1))), [IMAGE],
     7 * 5 * 6 * 9, 0),
    ("op_separable",
     lambda x: ops.separable_conv(x, ops.ones((3, 3, 6, 1)), ops.ones((1, 1, 6, U))), [IMAGE],
     7 * 5 * 6 * (9 + U), 0),
    ("op_transpose", lambda x: ops.conv_transpose(
        x, ops.ones((2, 2, U, 6)), 2, "valid", data_format="channels_last"), [IMAGE],
     9 * 7 * 6 * 4 * U, 0),
    ("op_attention", lambda x: ops.dot_product_attention(x, x, x), [(T, 2, U)],
     2 * 2 * T * T * U, 0),
    ("functional", lambda x: layers.BatchNormalization()(layers.ReLU()(x)), [IMAGE], 0, 0),
]  # fmt: skip
