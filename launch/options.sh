# shellcheck shell=bash
# Options that the launch scripts for T5X share; they source this file.
# shellcheck disable=SC2034  # the variables are used by the scripts that source this

mixture="" model="" bucket="" data_dir="" seed=0 distributed=false dry_run=false
name="recllm" zone="" accelerator="v3-8" version="tpu-ubuntu2204-base" spot=false
gin_settings=()

fail() {
  echo "$0: $*" >&2
  exit 2
}

# Reads --name VALUE, --name=VALUE, flags and --gin.NAME=VALUE into the variables above.
parse_options() {
  local option value
  while (($#)); do
    option="$1"
    shift
    case "$option" in
      --gin.*=*)
        gin_settings+=("$option")
        continue
        ;;
      --distributed | --dry_run | --spot)
        printf -v "${option#--}" true
        continue
        ;;
      --*=*)
        value="${option#*=}"
        option="${option%%=*}"
        ;;
      *)
        (($#)) || fail "option $option: got no value, expected $option VALUE"
        value="$1"
        shift
        ;;
    esac
    case "$option" in
      --mixture | --model | --bucket | --data_dir | --seed | --name | --zone | --accelerator | --version)
        printf -v "${option#--}" '%s' "$value"
        ;;
      *) fail "unknown option: got $option; see the options at the top of $0" ;;
    esac
  done
  bucket="${bucket%/}"
}

require_options() {
  local option
  for option in "$@"; do
    [[ -n "${!option}" ]] || fail "missing option: got no --$option; see the top of $0"
  done
}

# Runs a command, or prints it in a form that a shell can run.
execute() {
  if $dry_run; then
    printf '%q ' "$@"
    printf '\n'
  else
    "$@"
  fi
}

# Options for launch/t5x_run.sh, as one line for another shell.
run_options() {
  printf '%q ' --mixture "$mixture" --model "$model" --bucket "$bucket" --seed "$seed" \
    ${gin_settings[@]+"${gin_settings[@]}"} "$@"
}
