#!/usr/bin/env python
"""Draws what a model sees in pictures, videos and what a camera shows.

    python tools/demo.py --config-file configs/shapes/mask2former_vit_adapter_quickstart.py \
        --weights output/quickstart/model_final.pth --input photo.jpg folder "more/*.png" clip.mp4 \
        --output output/demo

The tree of a folder is mirrored below --output. With --json, results stand beside the pictures
(a JSON and label PNGs, described in vitadapter_d2/inference/results_json.py), those of a video's
frames in a folder named like it. No input is ever overwritten.

Inputs that are missing or cannot be read are reported and skipped; the exit status is then 1.
Ctrl-C keeps what is done: pictures, and a video that plays up to there.
"""

import argparse
import sys
from pathlib import Path

from vitadapter_d2 import Predictor
from vitadapter_d2.engine.config.loading import load_config
from vitadapter_d2.engine.demo.demo import Demo
from vitadapter_d2.engine.demo.options import (
    DemoOptions,
    check_device,
    chosen_classes,
    chosen_threshold,
    set_panoptic_thresholds,
)
from vitadapter_d2.engine.errors import ConfigError, exit_status
from vitadapter_d2.inference.inputs import IMAGE_SUFFIXES, VIDEO_SUFFIXES, Input, find_inputs
from vitadapter_d2.inference.outputs import output_paths


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--config-file", required=True, help="config file or name of the zoo")
    add("--weights", help="checkpoint; default: train.init_checkpoint")
    add("--input", nargs="+", default=[], help="pictures, videos, folders or patterns")
    add("--video-input", nargs="+", default=[], metavar="FILE", help="videos, whatever the suffix")
    add("--webcam", nargs="?", type=int, const=0, metavar="N", help="camera N, 0 if not given")
    add("--output", type=Path, default=Path("output/demo"), help="folder; of one input, or a file")
    add("--flat", action="store_true", help="put all results into --output itself")
    add("--format", choices=("png", "jpg"), default="png", help="of drawn pictures")
    add("--codec", help="of drawn videos: mp4v, MJPG, XVID, ...; default: mp4v, else MJPG")
    add("--json", action="store_true", help="write results as files too")
    add("--batch-size", type=_positive, default=1, metavar="N", help="images of one size at once")
    add("--device", help="cpu or cuda; default: train.device")
    add("--confidence-threshold", type=_share, help="score of instances; default: 0.5")
    add("--panoptic-threshold", type=_share, help="score of panoptic segments; default: as config")
    add("--overlap-threshold", type=_share, help="share of its mask that a panoptic segment owns")
    add("--classes", metavar="NAME,...", help="show these classes only")
    add("--alpha", type=_share, default=0.6, help="weight of the colours against the picture")
    add("--opts", nargs="*", default=[], help="config overrides, key=value")
    args = parser.parse_args()
    if not args.input and not args.video_input and args.webcam is None:
        parser.error("one of --input, --video-input and --webcam is needed")
    return args


def find_files(args: argparse.Namespace) -> tuple[list[Input], list[str]]:
    """Pictures and videos of the command line, the camera last, and what is missing."""
    files, missing = find_inputs(args.input, args.output)
    for video in map(Path, args.video_input):
        if video.is_file():
            files.append(Input(video, Path(video.name), is_video=True))
        else:
            missing.append(str(video))
    if args.webcam is not None:
        files.append(Input(Path(f"/dev/video{args.webcam}"), Path(f"camera{args.webcam}"), True))
    return files, missing


def plan(files: list[Input], args: argparse.Namespace) -> list[Path]:
    """Where the result of each file goes."""
    suffix = args.output.suffix.lower()
    if suffix not in IMAGE_SUFFIXES | VIDEO_SUFFIXES or args.output.is_dir():
        return output_paths(files, args.output, f".{args.format}", args.flat)
    target = args.output.resolve()
    if len(files) != 1 or files[0].is_video != (suffix in VIDEO_SUFFIXES):
        kinds = f"{sum(not file.is_video for file in files)} pictures and "
        kinds += f"{sum(file.is_video for file in files)} videos"
        raise ConfigError(f"--output {args.output} is one file: it cannot take {kinds}")
    if files[0].path.resolve() == target:
        raise ConfigError(f"--output {args.output} is the input, which is never overwritten")
    return [target]


def make_demo(args: argparse.Namespace) -> Demo:
    """The model, ready to look."""
    cfg = load_config(args.config_file, args.opts)
    check_device(args.device or cfg.train.device)
    predictor = Predictor(cfg, args.weights, args.device)
    set_panoptic_thresholds(predictor.model, args.panoptic_threshold, args.overlap_threshold)
    options = DemoOptions(
        threshold=chosen_threshold(predictor.model, args.confidence_threshold),
        classes=chosen_classes(args.classes, predictor.metadata),
        alpha=args.alpha,
        is_json=args.json,
        batch_size=args.batch_size,
        codec=args.codec,
    )
    return Demo(predictor, options)


def look(demo: Demo, files: list[Input], paths: list[Path], camera: int | None) -> None:
    """Goes through everything: pictures, videos, the camera."""
    pairs = list(zip(files, paths, strict=True))
    pictures = [pair for pair in pairs if not pair[0].is_video]
    videos = [pair for pair in pairs if pair[0].is_video]
    if pictures:
        demo.draw_pictures(*zip(*pictures, strict=True))
    for file, path in videos if camera is None else videos[:-1]:
        report_video(demo.draw_video(file.path, path))
    if camera is not None:
        report_video(demo.watch(camera, paths[-1]))


def report_video(path: Path | None) -> None:
    """Says where a video is."""
    if path is not None:
        print(f"video in {path}")


def main() -> int:
    """Returns the exit status."""
    args = parse_arguments()
    files, missing = find_files(args)
    lines = [f"no image or video at {pattern}" for pattern in missing]
    if not files:
        raise ConfigError("; ".join(lines))
    paths = plan(files, args)
    demo = make_demo(args)
    status = 0
    try:
        look(demo, files, paths, args.webcam)
    except KeyboardInterrupt:
        print("interrupted; what is done is kept", file=sys.stderr)
        status = 130
    finally:
        report(demo, sum(not file.is_video for file in files), args.output)
    lines += [f"skipped {problem}" for problem in demo.problems]
    for line in lines:
        print(line, file=sys.stderr)
    return status or (1 if lines else 0)


def report(demo: Demo, pictures: int, output: Path) -> None:
    """How much was done, and how fast."""
    parts = []
    if pictures:
        parts.append(f"{demo.pictures} of {pictures} images drawn in {output}")
    if demo.frames:
        parts.append(f"{demo.frames} frames of videos")
    if demo.seconds:
        parts.append(f"{(demo.pictures + demo.frames) / demo.seconds:.1f} images/s")
    if parts:
        print(", ".join(parts))


def _positive(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return int(text)


def _share(text: str) -> float:
    if not 0 <= float(text) <= 1:
        raise argparse.ArgumentTypeError(f"must be in [0, 1], got {text}")
    return float(text)


if __name__ == "__main__":
    sys.exit(exit_status(main))
