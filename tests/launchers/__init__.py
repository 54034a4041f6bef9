"""Launch files under a real Slurm and a real container engine: ./run.sh test --slurm, --docker."""
