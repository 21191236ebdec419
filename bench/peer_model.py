#!/usr/bin/env python3
"""Writes a ternary model of random weights in float16, for the quantizers of other engines.

usage: peer_model.py SHAPE ARCHITECTURE OUTPUT.gguf
       PYTHONPATH=BitNet/3rdparty/llama.cpp/gguf-py peer_model.py SHAPE tl2 OUTPUT.gguf HEAD.gguf

SHAPE is 125M, 700M or 2B4T, as `bitloom dummy --shape` knows them, or novels-6m; ARCHITECTURE is what the engine calls
BitNet b1.58: bitnet for llama.cpp and the llama.cpp under microsoft/BitNet, bitnet-b1.58 for ik_llama.cpp.
Every matrix of a layer holds a scale times -1, 0 and 1, exactly, so a quantizer loses nothing. The head
is the embedding, as in `bitloom dummy`. Then, for example:

    llama-quantize f16.gguf tq2_0.gguf TQ2_0
    llama-quantize f16.gguf iq2_bn.gguf IQ2_BN
    llama-quantize --token-embedding-type q6_K f16.gguf i2_s.gguf I2_S 1     (one thread: with two its file is damaged)

The second form writes matrices of TL2, which microsoft/BitNet's quantizer neither makes nor passes on: random indices
of its tables, so the file has the time of a model but not its text. The head, which its converter leaves in float32, is
taken from HEAD.gguf, a file of the same shape that has been quantized. TL2's kernels are generated for one shape each:
utils/codegen_tl2.py wants the shapes that are not its own in ModelShapeDict, then for 125M, 700M and 2B4T

    --BM 128,256,128 --BK 192,96,96        768x768, 3072x768, 768x3072
    --BM 256,128,256 --BK 96,192,96        1536x4096, 1536x1536, 4096x1536
    --BM 256,128,256,256 --BK 96,96,96,96  2560x2560, 640x2560, 6912x2560, 2560x6912

and a build with BITNET_X86_TL2=ON.

(A file name that starts with a digit is taken for a type: write ./2B4T.gguf.)

    pip install --only-binary :all: gguf numpy      (numpy < 2 for the second form)
"""
import sys

import gguf
import numpy as np

# layers, width, FFN width, heads, heads of keys and values, vocabulary
SHAPES = {"125M": (11, 768, 3072, 12, 12, 32000),
          "700M": (24, 1536, 4096, 16, 16, 32000),
          "2B4T": (30, 2560, 6912, 20, 5, 128256),
          "novels-6m": (6, 256, 768, 8, 4, 4096)}
CONTEXT = 4096


def ternary(random, rows, cols):
    scale = np.float16(1 / 32)
    return (random.integers(-1, 2, (rows, cols), dtype=np.int8) * scale).astype(np.float16)


def tl2_bytes(rows, cols):
    """As the engine counts them (ggml_nbytes), less the scale behind: 5 bits for 3 weights, 4 bits for 2 of the last 256
    columns, whether or not a shape has such."""
    n = (cols - 256) * rows // 3 * 5 // 8 + 256 * rows // 2 * 4 // 8
    return (n + 31) // 32 * 32


def add_matrix(writer, random, name, rows, cols, is_tl2):
    if not is_tl2:
        writer.add_tensor(name, ternary(random, rows, cols))
        return
    data = random.integers(0, 256, tl2_bytes(rows, cols), dtype=np.uint8)
    writer.add_tensor(name, data, raw_shape=(rows, cols), raw_dtype=gguf.GGMLQuantizationType.TL2)
    writer.add_tensor(name + "_scale", np.full(1, 1 / 32, np.float32), raw_dtype=gguf.GGMLQuantizationType.F32)


def add_head_of(writer, path, vocab, dim):
    for tensor in gguf.GGUFReader(path).tensors:
        if tensor.name == "token_embd.weight":
            writer.add_tensor(tensor.name, tensor.data, raw_shape=(vocab, dim), raw_dtype=tensor.tensor_type)


def add_vocabulary(writer, n):
    byte = [f"<0x{i:02X}>" for i in range(256)]
    tokens = ["<unk>", "<s>", "</s>"] + byte + ["\u2581"]
    tokens += [f"t{i}" for i in range(len(tokens), n)]
    types = [2, 3, 3] + [6] * 256 + [1] * (n - 259)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([t.encode() for t in tokens])
    writer.add_token_scores([-float(i) for i in range(n)])
    writer.add_token_types(types)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)


def main():
    is_tl2 = len(sys.argv) == 5 and sys.argv[2] == "tl2"
    if (len(sys.argv) != 4 and not is_tl2) or sys.argv[1] not in SHAPES:
        sys.exit(__doc__)
    n_layers, dim, ffn, n_heads, n_kv_heads, vocab = SHAPES[sys.argv[1]]
    kv_dim = dim // n_heads * n_kv_heads
    writer = gguf.GGUFWriter(sys.argv[3], "bitnet" if is_tl2 else sys.argv[2], use_temp_file=True)
    writer.add_name(f"random-{sys.argv[1]}")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_block_count(n_layers)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(dim)
    writer.add_feed_forward_length(ffn)
    writer.add_head_count(n_heads)
    writer.add_head_count_kv(n_kv_heads)
    writer.add_rope_dimension_count(dim // n_heads)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(vocab)
    add_vocabulary(writer, vocab)
    random = np.random.default_rng(1)
    if is_tl2:
        add_head_of(writer, sys.argv[4], vocab, dim)
    else:
        writer.add_tensor("token_embd.weight", random.uniform(-0.03, 0.03, (vocab, dim)).astype(np.float16))
    for i in range(n_layers):
        def add(name, rows, cols=None, i=i):
            if cols is None:
                writer.add_tensor(f"blk.{i}.{name}.weight", np.ones(rows, np.float32))
            else:
                add_matrix(writer, random, f"blk.{i}.{name}.weight", rows, cols, is_tl2)
        add("attn_norm", dim)
        add("attn_q", dim, dim)
        add("attn_k", kv_dim, dim)
        add("attn_v", kv_dim, dim)
        add("attn_sub_norm", dim)
        add("attn_output", dim, dim)
        add("ffn_norm", dim)
        add("ffn_gate", ffn, dim)
        add("ffn_up", ffn, dim)
        add("ffn_sub_norm", ffn)
        add("ffn_down", dim, ffn)
    writer.add_tensor("output_norm.weight", np.ones(dim, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
