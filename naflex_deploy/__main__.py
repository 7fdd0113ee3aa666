"""``python -m naflex_deploy``: the command line where its script is not on the PATH."""

from naflex_deploy.cli import main

main(prog_name="naflex-deploy")
