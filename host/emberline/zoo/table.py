"""The zoo's table. URLs name a commit where one is known; every download is checked by its hash in any case."""

from __future__ import annotations

from emberline.zoo.entries import Reader, ZooEntry, ZooFile

CIFAR10_LABELS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_TINY = "https://raw.githubusercontent.com/mlcommons/tiny/master/benchmark/training/"
_CORAL = "https://raw.githubusercontent.com/google-coral/test_data/104342d2d3480b3e66203073dac24f4e2dbb4c41/"
_SQUEEZENET_PIXELS = {"resize": 256, "order": "BGR", "mean": [104, 117, 123]}
_KEYWORDS = ("down", "go", "left", "no", "off", "on", "right", "stop", "up", "yes", "silence", "unknown")
_SYNSETS = ZooFile("zynqnet/synset_words.txt", "acf75ef0abe89694b19056e0796401068b459c457baa30335f240c7692857355")
_IMAGENET_1001 = ZooFile(
    "mobilenet/imagenet_labels_1001.txt", "b8aaeb5630c62626a7d124a05c0e14230a7ffdd2136a31d0190a4fb71c1d82f1",
    _CORAL + "imagenet_labels.txt",
)  # fmt: skip

ENTRIES = (
    ZooEntry(
        name="ember_cifar10",
        file="ember_cifar10.tflite",
        title="the project's own CIFAR-10 classifier: fire modules, no fully connected layer",
        origin="python -m emberline.training.train",
        licence="Apache-2.0",
        labels=CIFAR10_LABELS,
        preprocessing={"order": "RGB", "scale": 1 / 255},
    ),
    ZooEntry(
        name="resnet8",
        file="mlperf_tiny/ic_resnet8_int8.tflite",
        title="MLPerf Tiny image classification, ResNet-8 for CIFAR-10",
        origin="https://github.com/mlcommons/tiny, benchmark/training/image_classification, commit 1afd2c9",
        licence="Apache-2.0",
        labels=CIFAR10_LABELS,
        preprocessing={"order": "RGB"},
        sha256="3c002613d1b2475eb51dd78dfb85a546c8ae658dee71cf6ade43b022fe205415",
        url=_TINY + "image_classification/trained_models/pretrainedResnet_quant.tflite",
    ),
    ZooEntry(
        name="vww_96",
        file="mlperf_tiny/vww_96_int8.tflite",
        title="MLPerf Tiny visual wake words: is there a person? MobileNetV1 0.25, 96x96",
        origin="https://github.com/mlcommons/tiny, benchmark/training/visual_wake_words, commit 1afd2c9",
        licence="Apache-2.0",
        labels=("no person", "person"),
        preprocessing={"order": "RGB", "scale": 1 / 255},
        sha256="597a384c8c2c8a1276f04702f25013b7838f2f814f1ca7c174d295b73e3d6b7b",
        url=_TINY + "visual_wake_words/trained_models/vww_96_int8.tflite",
    ),
    ZooEntry(
        name="kws",
        file="mlperf_tiny/kws_int8.tflite",
        title="MLPerf Tiny keyword spotting, DS-CNN on 49x10 MFCC features",
        origin="https://github.com/mlcommons/tiny, benchmark/training/keyword_spotting, commit 1afd2c9",
        licence="Apache-2.0",
        labels=_KEYWORDS,
        preprocessing={},
        sha256="aeea436800704fce17b17292e4412630ad856e9d777c044c64ef748a880bd0ae",
        url=_TINY + "keyword_spotting/trained_models/kws_ref_model.tflite",
    ),
    ZooEntry(
        name="mobilenet_v1_025",
        file="mobilenet/mobilenet_v1_0.25_128_quant.tflite",
        title="MobileNetV1 0.25, 128x128, uint8 with weight zero points",
        origin="https://github.com/google-coral/test_data, commit 104342d",
        licence="Apache-2.0",
        labels=(),
        preprocessing={"order": "RGB", "mean": 127.5, "scale": 1 / 127.5},
        sha256="cb273c23ee76374b05b9583177e28aa19744858a7679c56a250e83d0333da785",
        url=_CORAL + "mobilenet_v1_0.25_128_quant.tflite",
        label_file=_IMAGENET_1001,
    ),
    ZooEntry(
        name="mobilenet_v2",
        file="mobilenet/tf2_mobilenet_v2_1.0_224_ptq.tflite",
        title="MobileNetV2 1.0, 224x224, int8 per channel",
        origin="https://github.com/google-coral/test_data, commit 104342d",
        licence="Apache-2.0",
        labels=(),
        preprocessing={"order": "RGB", "mean": 127.5, "scale": 1 / 127.5},
        sha256="5d3137241276e79c86d14a74fe43581398ae0e815191d3dba45495b810840e8c",
        url=_CORAL + "tf2_mobilenet_v2_1.0_224_ptq.tflite",
        label_file=_IMAGENET_1001,
    ),
    ZooEntry(
        name="zynqnet",
        file="zynqnet/ZynqNet_Quantized_8bit.dat",
        title="ZynqNet, 8-bit dynamic fixed point, 256x256",
        origin="https://github.com/pp-Innovate/FPGA-ZynqNet, commit b6e3ee1",
        licence="GPL-3.0: data only",
        labels=(),
        preprocessing={"resize": 256, "order": "BGR", "mean": [104, 117, 123]},
        sha256="873dfcfa8f32f0cc7c2544288387b042e56df98ed17991f1ab56a6c8870118eb",
        url="https://raw.githubusercontent.com/pp-Innovate/FPGA-ZynqNet/b6e3ee195a08092a76e8f48d0172501f339326d2/"
        "data/ZynqNet_Quantized_8bit.dat",
        reader=Reader.ZYNQNET,
        companions=(
            ZooFile("zynqnet/zynqnet_quant.json", "8187e78e06c3fd9ea123af06c65882c1d40b02ee2b8ddd916fadb97a70d53c26"),
        ),
        label_file=_SYNSETS,
    ),
    ZooEntry(
        name="squeezenet_v1.1",
        file="squeezenet_v1.1/squeezenet1.1_fp16w_f32.onnx",
        title="SqueezeNet v1.1, float, 227x227",
        origin="https://github.com/nihui/ncnn-assets, commit 9489f87, made into ONNX",
        licence="BSD-2-Clause (forresti/SqueezeNet)",
        labels=(),
        preprocessing=_SQUEEZENET_PIXELS,
        sha256="6a308c9efd4793734861467dd92e784761dcfc394b596412798fe03d85efa2bc",
        reader=Reader.ONNX_FLOAT,
        label_file=_SYNSETS,
    ),
    ZooEntry(
        name="squeezenet_v1.0",
        file="squeezenet_v1.0_deep_compression/compressed_SqueezeNet.net",
        title="SqueezeNet v1.0 after Deep Compression, 227x227",
        origin="https://github.com/songhan/SqueezeNet-Deep-Compression, commit fb13faa",
        licence="BSD-2-Clause",
        labels=(),
        preprocessing=_SQUEEZENET_PIXELS,
        sha256="e4ab6960ae8cd81505e1c2136921201507e930966c53deaf15862a395b3a3261",
        url="https://raw.githubusercontent.com/songhan/SqueezeNet-Deep-Compression/"
        "5623e3cdbe1fcd83328c61ce2ee42c34ed319aa3/compressed_SqueezeNet.net",
        reader=Reader.DEEP_COMPRESSION,
        label_file=_SYNSETS,
    ),
    ZooEntry(
        name="face_ultralight",
        file="face_ultralight/version-slim-320_simplified.onnx",
        title="Ultra-light face detector (slim), float, 320x240",
        origin="https://github.com/Linzaer/Ultra-Light-Fast-Generic-Face-Detector-1MB, commit dffdddd",
        licence="MIT",
        labels=("background", "face"),
        preprocessing={"stretch": True, "order": "RGB", "mean": 127, "scale": 1 / 128},
        sha256="0fa11c7949ea4f05b9b3af004317e325cff7740127152fa4292a7466158607b7",
        url="https://raw.githubusercontent.com/Linzaer/Ultra-Light-Fast-Generic-Face-Detector-1MB/"
        "dffdddda9794a50607cba8f318507a28c1c27cab/models/onnx/version-slim-320_simplified.onnx",
        reader=Reader.ONNX_FLOAT,
        outputs=("232", "278", "318", "350", "246", "292", "332", "362"),
    ),
)
