# bash completion of mdcadm; made from tools/table.py by `make generated`.
_mdcadm() {
  local cur="${COMP_WORDS[COMP_CWORD]}" prev="${COMP_WORDS[COMP_CWORD-1]}" words=""
  if [ "$prev" = "=" ]; then prev="${COMP_WORDS[COMP_CWORD-2]}"; fi
  if [ "$cur" = "=" ]; then cur=""; fi
  case "$prev" in
    --level) words="raid1 raid10" ;;
    --layout) words="n2" ;;
    --action|--auto|--symlinks|--prefer) words="check repair idle" ;;
    --metadata) words="1.2" ;;
    --consistency-policy) words="bitmap" ;;
    --bitmap) words="internal clustered none" ;;
    --config|--path|--program|--pid-file|--socket) COMPREPLY=($(compgen -f -- "$cur")); return ;;
    --transfer|--fence-ack|--admit) words="$(_mdcadm_names nodes)" ;;
    *)
      case "$cur" in
        -*) words="--create --assemble --manage --grow --misc --monitor --detail --examine --examine-bitmap --examine-badblocks --query --wait --wait-clean --cluster --mdstat --why --events --watch --history --kinds --check-timing --stop --run --readonly --readwrite --action --zero-superblock --reload --adopt --release --pause --resume --transfer --fence-ack --admit --fail --remove --add --add-spare --re-add --replace --with --level --raid-devices --spare-devices --chunk --layout --size --data-offset --assume-clean --bitmap --bitmap-chunk --consistency-policy --nodes --home-cluster --metadata --name --uuid --scan --config --daemonise --force --no-degraded --auto --symlinks --path --test --mail --program --increment --delay --oneshot --pid-file --syslog --everywhere --no-sharing --brief --export --no-devices --prefer --homehost --offroot --json --dry-run --verbose --quiet --socket --help --help-options --version" ;;
        /*) COMPREPLY=($(compgen -f -- "$cur")); return ;;
        *) words="$(_mdcadm_names arrays)" ;;
      esac ;;
  esac
  COMPREPLY=($(compgen -W "$words" -- "$cur"))
}
# Names of the cluster's arrays or nodes; nothing where no daemon answers.
_mdcadm_names() {
  case "$1" in
    arrays) mdcadm --detail --scan 2>/dev/null | sed -n 's/^ARRAY \([^ ]*\).*/\1/p' ;;
    nodes) mdcadm --cluster --json 2>/dev/null | sed -n 's/^      "name": "\(.*\)",$/\1/p' ;;
  esac
}
complete -F _mdcadm mdcadm
