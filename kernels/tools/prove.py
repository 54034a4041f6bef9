"""Compiles every kernel without a GPU for several kinds; reads instructions, registers and spills from the assembly."""

from __future__ import annotations

import itertools
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from kernels.architectures import Platform
from kernels.formats import BLOCK, E4M3, E5M2, NVFP4_BLOCK
from kernels.fused import deferred, joint
from kernels.fused import triton as fused
from kernels.matmul import triton as gemm
from kernels.operand_use import Use
from kernels.quantize import triton as quantize
from kernels.quantize import triton_fp8, triton_largest
from kernels.recipe import Format, Quantizer, Rounding, ScaleRule
from kernels.tools import machine_code

TARGETS = {
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "sm_103": GPUTarget("cuda", 103, 32),
    "sm_120": GPUTarget("cuda", 120, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
    "gfx950": GPUTarget("hip", "gfx950", 64),
}
_MATRIX = r"\b(?:tcgen05\.mma|mma\.sync|wgmma\.mma_async|v_mfma|v_mfma_scale)[\w.:]*"
_CONVERSION = (
    r"\b(?:cvt\.r[ns]\.satfinite\.e[245]m[123]x[24]\.f32|v_cvt_scalef32_(?:sr_pk_fp4|pk_fp4|pk_fp8)_f32)"
)
_MOVES = r"\b(?:tcgen05\.cp|cp\.async\.bulk\.tensor)\b"
_CONVERTS = re.compile(r"v_cvt_scalef32_\w*pk_(?:fp4|fp8|bf8)_\w+")  # write a part of a register
_BY_CHANCE = re.compile(r"cvt\.rs\.|_sr_pk_fp4")
_BLOCK_OF_16 = re.compile(r"block16|scale_vec::4X")
_NVFP4 = Quantizer(format=Format.NVFP4)
_SIGNATURE = {
    "x_ptr": "*bf16", "row_matrix": "*bf16", "column_matrix": "*bf16", "scale_ptr": "*fp32", "alpha": "fp32",
    "row_values": "*i32", "column_values": "*i32", "c": "*bf16",
    "row_largest": "*i32", "column_largest": "*i32", "row_tensor": "*fp32", "column_tensor": "*fp32",
    "a_tensor": "*fp32", "b_tensor": "*fp32",
    "row_seed": "i64", "row_offset": "i64", "column_seed": "i64", "column_offset": "i64",
    "row_start": "*i64", "column_start": "*i64",
    "M": "i32", "N": "i32", "K": "i32",
}  # fmt: skip
_UNALIGNED = ("row_seed", "row_offset", "column_seed", "column_offset", "alpha", "epsilon", "first", "B")
_ON_SM_103 = ("nvfp4 H16, both", "nvfp4 H16 hardware rounding, both")
_FUSED_ON = ("sm_90", "gfx950")  # one target per vendor: these kernels use no special instructions
_FUSED_TYPES = {
    "*bf16": "qkv_ptr q_ptr k_ptr v_ptr x_ptr y_ptr dy_ptr dx_ptr logits_ptr residual_ptr gain_ptr stream_ptr out_ptr "
    "dstream_ptr dnormed_ptr buffer_ptr",
    "*fp32": "cos_ptr sin_ptr log_sums_ptr chosen_ptr gradient_ptr roots_ptr sums_ptr largest_ptr",
    "*i64": "labels_ptr starts_ptr sizes_ptr",
    "*fp64": "norm_ptr",
    "*i32": "found_ptr",
    "fp32": "epsilon",
    "i32": "B q_s q_b q_h k_s k_b k_h v_s v_b v_h F first V H T R C",
}


@dataclass(frozen=True)
class Case:
    """One kernel with the constants of a launch on whole tiles."""

    name: str
    kernel: Any
    constants: dict[str, Any]
    options: dict[str, Any]  # compiler options
    types: dict[str, str]  # types of arguments that differ from _SIGNATURE


@dataclass(frozen=True)
class Found:
    """Figures of a compiled case, read from its assembly."""

    target: str
    case: str
    matrix: dict[str, int]  # matrix instructions and how often they occur
    conversions: dict[str, int]
    moves: dict[str, int]  # bulk copies, of tiles and into tensor memory
    registers: int
    spilled_bytes: int
    shared_bytes: int
    instructions: int  # NVIDIA: SASS; AMD: assembly
    hazards: int = 0  # conversions whose result the next instruction uses: the hardware needs a wait state
    warps: int = 0
    barriers: int = 0  # that a warp executes
    executed: int = 0  # instructions of a warp: machine_code.read
    elements: int = (
        0  # of the input, of one program: kernels of tiles; an element in both orientations counts once
    )
    blocks_by_registers: int = 0  # that fit on a multiprocessor
    blocks: int = 0  # the same by registers, shared and tensor memory and threads

    @property
    def per_element(self) -> float:
        """Instructions of a thread for an element: executed * warps * lanes / elements."""
        lanes = machine_code.CHIPS[self.target].lanes
        return self.executed * self.warps * lanes / self.elements if self.elements else 0.0


def cases(target: str) -> Iterator[Case]:
    """Every kernel in the form that runs on this target; sm_103 gets sm_100's code, so a few of them."""
    on = Platform(target)
    quantizers = [one for one in _quantizers() if target != "sm_103" or one[0] in _ON_SM_103]
    for name, rows, columns, packed in quantizers:
        swizzled = on.has_tensor_memory and packed == (True, True)
        shape = (4096, 4096)
        _, constants = quantize.launch_options(
            *shape, rows, columns, packed, swizzled, quantize.target_of(on)
        )
        row_type, column_type = ("*i32" if one else "*i16" for one in packed)
        types = {"row_values": row_type, "column_values": column_type}
        yield _case(name, quantize.quantize_kernel, constants, types)
        if name == "nvfp4 H16, both":
            first = triton_largest.options_of(constants, True, True)
            yield _case("nvfp4 largest H16, both", triton_largest.largest_kernel, first, {})
    yield from _gemms(on)
    if target == "sm_103":
        return
    for name, block in (("mxfp4", BLOCK), ("nvfp4", NVFP4_BLOCK)):
        constants = {"BLOCK": block, "TRANSPOSED": True, "BM": 64, "BN": 128}
        yield _case(f"{name} codes to values", quantize.dequantize_kernel, constants, {"values_ptr": "*i16"})
    if on.has_fp8_units:
        element = (E4M3.mantissa_bits, E4M3.min_exponent, E4M3.max_exponent, E4M3.largest)
        constants = {
            "ELEMENT": element,
            "TARGET": "arithmetic",
            "ROW": True,
            "COLUMN": True,
            "BM": 64,
            "BN": 128,
        }
        yield _case("fp8 cast, both", triton_fp8.cast_kernel, constants, {})
    yield from _joint(target)
    types = {name: type for type, names in _FUSED_TYPES.items() for name in names.split()}
    for name, kernel, constants in _fused() if target in _FUSED_ON else ():
        own = {"x_ptr": "*fp32"} if kernel is fused.column_sums_kernel else {}
        yield _case(name, kernel, constants, {**types, **own})


def _gemms(on: Platform) -> Iterator[Case]:
    if on.has_fp4_units:
        kernel = gemm.descriptor if on.has_tensor_memory else gemm.plain
        for element_name in ("e2m1", "e4m3", gemm.NVFP4)[: 2 + on.has_nvfp4_units]:
            tiling = gemm.candidates(element_name, on.has_tensor_memory)[0]
            options = gemm.launch_options(tiling, element_name, False, interpreted=False)
            yield _case(f"gemm {element_name}, {tiling}", kernel, options, {})


def _quantizers() -> Iterator[tuple[str, Use | None, Use | None, tuple[bool, bool]]]:
    plain, h16 = Use(Quantizer()), Use(Quantizer(hadamard=16))
    chance = Use(Quantizer(hadamard=16, rounding=Rounding.STOCHASTIC))
    mxfp8 = Use(Quantizer(format=Format.MXFP8, element=E4M3))
    codes, values = (True, True), (False, False)
    yield "mxfp4, rows", plain, None, codes
    yield "mxfp4 H16, rows", h16, None, codes
    yield "mxfp4 H16, both", h16, h16, codes
    yield "mxfp4 H16 stochastic, both", chance, chance, codes
    yield "mxfp4 H16 values, both", h16, h16, values
    yield "mxfp4 H16 values of rows, codes of columns", h16, h16, (False, True)
    yield "mxfp8, both", mxfp8, mxfp8, codes
    yield "mxfp4 least-error, rows", Use(Quantizer(scale_rule=ScaleRule.LEAST_ERROR)), None, codes
    one, four_six = Use(_NVFP4), Use(replace(_NVFP4, scale_rule=ScaleRule.FOUR_SIX))
    nvfp4, square = Use(replace(_NVFP4, hadamard=16)), Use(replace(_NVFP4, rows=16))
    chance = Use(replace(_NVFP4, hadamard=16, rounding=Rounding.STOCHASTIC))
    by_chip = Use(replace(_NVFP4, hadamard=16, rounding=Rounding.HARDWARE))
    yield "mxfp4 hardware rounding, rows", Use(Quantizer(rounding=Rounding.HARDWARE)), None, codes
    yield "nvfp4 H16 hardware rounding, both", by_chip, by_chip, codes
    yield "nvfp4, rows", one, None, codes
    yield "nvfp4 H16, both", nvfp4, nvfp4, codes
    yield "nvfp4 square blocks, both", square, square, codes
    yield "nvfp4 four-six, rows", four_six, None, codes
    yield "nvfp4 H16 stochastic, both", chance, chance, codes
    yield "nvfp4 values of rows, H16 codes of columns", one, nvfp4, (False, True)


def _joint(target: str) -> Iterator[Case]:
    """Norm, SwiGLU and its gradient with a quantiser; FP8 in the types that X and dY have."""
    on = Platform(target)
    names = {deferred.NORM: "norm", deferred.SWIGLU: "swiglu", deferred.SWIGLU_GRADIENT: "gradient of swiglu"}
    h16, chance = Use(Quantizer(hadamard=16)), Use(Quantizer(hadamard=16, rounding=Rounding.STOCHASTIC))
    for kind, name in names.items():
        one = chance if kind == deferred.SWIGLU_GRADIENT and target in _FUSED_ON else h16
        packed = (on.has_fp4_units, True)
        swizzled = on.has_tensor_memory
        shape, units = (4096, 4096), quantize.target_of(on)
        constants = joint.launch_options(shape, kind, one, one, packed, swizzled, units)
        rows = "*i32" if packed[0] else "*i16"
        types = {"a_ptr": "*bf16", "b_ptr": "*bf16", "row_values": rows, "column_values": "*i32"}
        types["c_ptr"] = "*fp32" if kind == deferred.NORM else "*bf16"
        what = "mxfp4 H16" + (" stochastic" if one is chance else "")
        label = f"{what if packed[0] else what + ' values of rows, codes of columns'}, {name}"
        yield _case(label, joint.joint_quantize_kernel, constants, types)
        if not on.has_fp8_units or target not in _FUSED_ON:
            continue
        element = E5M2 if kind == deferred.SWIGLU_GRADIENT else E4M3
        constants = {
            "ELEMENT": (element.mantissa_bits, element.min_exponent, element.max_exponent, element.largest),
            "TARGET": units, "ROW": True, "COLUMN": True, "BM": 64, "BN": 128,
            "enable_fp_fusion": False, **joint.of_kind(kind),
        }  # fmt: skip
        yield _case(f"fp8 cast, {name}", joint.joint_cast_kernel, constants, types)


def _fused() -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """As a layer of Llama 3.1 8B launches them."""
    heads = {"HEADS": 4, "GROUPS": 8, "F": 64, "ROWS": 64, "HALF": 64, "num_warps": 8}
    rows = {"BLOCK": 4096, "num_warps": 8}
    chunks = {"CHUNK": 8192, "num_warps": 8}
    same = {"TARGET": "arithmetic", "enable_fp_fusion": False}
    yield "rope", fused.rope_kernel, {**heads, "BACKWARD": False}
    yield "rope, gradient", fused.rope_kernel, {**heads, "BACKWARD": True}
    yield "swiglu", fused.swiglu_kernel, {"COLUMNS": 1024, **same}
    yield "swiglu, gradient", fused.swiglu_backward_kernel, {"COLUMNS": 1024, **same}
    yield "cross entropy", fused.cross_entropy_kernel, chunks
    yield "cross entropy, gradient", fused.cross_entropy_backward_kernel, chunks
    yield "residual and norm", fused.norm_kernel, {**rows, **same, "ADDS": True, "NORMED": True}
    yield "residual and roots", fused.norm_kernel, {**rows, **same, "ADDS": True, "NORMED": False}
    yield "residual and norm, gradient", fused.norm_backward_kernel, {**rows, "ROWS": 32}
    yield "sums of the gain's gradient", fused.column_sums_kernel, {"ROWS": 64, "COLUMNS": 32}
    yield "gradients not finite", fused.parts_not_finite_kernel, {"PARTS": 8, "CHUNK": 8192}


def _case(name: str, kernel: Any, constants: dict[str, Any], types: dict[str, str]) -> Case:
    options = {k: v for k, v in constants.items() if k in ("num_warps", "enable_fp_fusion", "maxnreg")}
    return Case(name, kernel, {k: v for k, v in constants.items() if k not in options}, options, types)


def compiled(target: str, case: Case) -> Found:
    """Compile one case and read its assembly."""
    names = case.kernel.arg_names
    types = {**_SIGNATURE, **case.types}
    signature = {n: "constexpr" if n in case.constants else types.get(n, "*u8") for n in names}
    aligned = [(i,) for i, n in enumerate(names) if n not in case.constants and n not in _UNALIGNED]
    source = ASTSource(
        case.kernel,
        signature,
        constexprs=case.constants,
        attrs={i: [["tt.divisibility", 16]] for i in aligned},
    )
    kernel = triton.compile(source, target=TARGETS[target], options=case.options)
    text = kernel.asm.get("ptx") or kernel.asm["amdgcn"]
    registers, spilled, assembly = _nvidia(kernel) if "ptx" in kernel.asm else (*_amd(text), text)
    halves = case.constants.get("HALVES", 1)
    code = machine_code.read(assembly, halves)
    matrix, conversions, moves = (
        dict(Counter(re.findall(pattern, text))) for pattern in (_MATRIX, _CONVERSION, _MOVES)
    )
    shared, warps = kernel.metadata.shared, kernel.metadata.num_warps
    by_registers, blocks = machine_code.resident_blocks(
        target,
        registers=registers,
        warps=warps,
        shared_bytes=shared,
        tensor_columns=getattr(kernel.metadata, "tmem_size", 0),
    )
    has_tile = "BM" in case.constants and not case.name.startswith("gemm")
    return Found(
        target,
        case.name,
        matrix,
        conversions,
        moves,
        registers,
        spilled,
        shared,
        code.instructions,
        hazards=0 if "ptx" in kernel.asm else conversion_hazards(text),
        warps=warps,
        barriers=code.barriers,
        executed=code.executed,
        elements=halves * case.constants["BM"] * case.constants["BN"] if has_tile else 0,
        blocks_by_registers=by_registers,
        blocks=blocks,
    )


def _nvidia(kernel: Any) -> tuple[int, int, str]:
    """Registers, stack bytes (here all spills) and SASS of a cubin."""
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        usage = _output(tools / "cuobjdump", "--dump-resource-usage", file.name)
        sass = _output(tools / "nvdisasm", "-c", file.name)
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    if found is None:
        raise RuntimeError(f"cuobjdump: its output names no registers and stack:\n{usage[-500:]}")
    return int(found[1]), int(found[2]), sass


def _output(program: Path, *arguments: str) -> str:
    done = subprocess.run([program, *arguments], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{program.name}: {done.stderr.strip()[-500:]}")
    return done.stdout


def _amd(text: str) -> tuple[int, int]:
    def number(key: str) -> int:
        found = re.search(rf"\.{key}:\s+(\d+)", text)
        return int(found[1]) if found else 0

    spilled = 4 * (number("vgpr_spill_count") + number("sgpr_spill_count"))
    return number("vgpr_count"), spilled


def conversion_hazards(text: str) -> int:
    """Count the gfx950 conversions that write a part of a register which the next instruction uses.

    The hardware needs one wait state in between (LLVM, GCNHazardRecognizer: hasCvtScaleForwardingHazard). The compiler
    adds it around inline assembly, but not inside.
    """
    lines = re.findall(r"^\s+([a-z]\w+)[ \t]+(.*)", text, re.M)
    found = 0
    for (name, operands), (after, used) in itertools.pairwise(lines):
        # FP8 conversions into the lower half of a register need no wait state
        shifted = _CONVERTS.fullmatch(name) and ("fp4" in name or operands.endswith("1]"))
        if shifted and after.startswith("v_"):
            found += _registers(operands.partition(",")[0]) <= _registers(used)
    return found


def _registers(operands: str) -> set[int]:
    """Numbers of the vector registers in operands such as v7 or v[4:7]."""
    ranges = re.findall(r"\bv(?:(\d+)|\[(\d+):(\d+)\])", operands)
    return {n for one, low, high in ranges for n in range(int(one or low), int(one or high) + 1)}


def complaints(found: Found) -> list[str]:
    """Complaints about a compiled kernel: instructions it should use and does not, hazards and spills."""
    on, where = Platform(found.target), f"{found.target}, {found.case}"
    texts = []
    if found.case.startswith("gemm") and not any("scale" in name for name in found.matrix):
        texts.append(f"{where}: no block-scaled matrix instruction; it has {list(found.matrix) or 'none'}")
    if found.case.startswith("gemm nvfp4") and not any(_BLOCK_OF_16.search(name) for name in found.matrix):
        texts.append(f"{where}: no matrix instruction for blocks of 16; it has {list(found.matrix)}")
    if found.case.startswith("gemm") and on.has_tensor_memory and "tcgen05.cp" not in found.moves:
        texts.append(f"{where}: scales go through registers; expected tcgen05.cp")
    if "H16" in found.case and on.has_tensor_memory and not found.matrix:
        texts.append(f"{where}: the transform uses no matrix instruction")
    nearest = found.case.startswith(("mxfp4", "nvfp4")) and not any(
        word in found.case for word in ("values", "stochastic", "hardware", "largest")
    )
    rounds = on.has_tensor_memory or found.target == "gfx950"
    if "hardware rounding" in found.case and rounds and not _BY_CHANCE.search(" ".join(found.conversions)):
        texts.append(f"{where}: no stochastic conversion; it has {list(found.conversions) or 'none'}")
    if nearest and on.has_fp4_units and not found.conversions:
        texts.append(f"{where}: no hardware conversion to E2M1")
    if found.hazards:
        texts.append(
            f"{where}: {found.hazards} conversions whose result the next instruction uses; expected s_nop between"
        )
    if found.spilled_bytes:
        texts.append(f"{where}: {found.spilled_bytes} bytes of registers spilled")
    return texts


def line(found: Found) -> str:
    """The figures of one kernel as one line of text."""
    used = {**found.matrix, **found.conversions, **found.moves}
    text = ", ".join(f"{count} x {name}" for name, count in used.items()) or "no special instructions"
    numbers = f"{found.registers:3d} registers, {found.spilled_bytes} B spilled"
    size = f"{found.shared_bytes / 1024:5.1f} kB shared, {found.instructions:5d} instructions"
    if found.elements:
        size += f" ({found.per_element:.1f} an element), {found.barriers} barriers, {found.blocks} blocks fit"
    return f"{found.target:<7} {found.case:<44} {numbers}, {size}: {text}"


COLUMNS = (
    "target",
    "kernel",
    "registers",
    "warps",
    "instructions an element",
    "barriers",
    "shared kB",
    "blocks",
)


def table(found: Iterable[Found]) -> str:
    """The kernels that work on tiles as a table in Markdown, as docs/measurements has it."""
    lines = [f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS)]
    for one in found:
        if one.elements:
            counts = f"{one.registers} | {one.warps} | {one.per_element:.1f} | {one.barriers}"
            memory = f"{one.shared_bytes / 1024:.1f} | {one.blocks} ({one.blocks_by_registers})"
            lines.append(f"| {one.target} | {one.case} | {counts} | {memory} |")
    return "\n".join(lines)
