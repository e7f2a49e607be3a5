_tidegate_iptables() {
  local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]}
  local tool=${COMP_WORDS[0]##*/} words i one two
  case "$before" in
    -m|--match) words=$(_tidegate_words "$tool -m") ;;
    -t|--table) words=$(_tidegate_words tables) ;;
    -j|--jump)
      words="$(_tidegate_words "$tool -j") $("${COMP_WORDS[0]}" -S 2>/dev/null | sed -n 's/^-N //p')" ;;
    -g|--goto) words=$("${COMP_WORDS[0]}" -S 2>/dev/null | sed -n 's/^-N //p') ;;
    *)
      words=$(_tidegate_words own)
      for ((i = 1; i < COMP_CWORD; i++)); do
        one=${COMP_WORDS[i]} two=${COMP_WORDS[i+1]}
        case "$one" in
          -m|--match|-p|--protocol) words+=" $(_tidegate_words "$tool -m $two")" ;;
          -j|--jump) words+=" $(_tidegate_words "$tool -j $two")" ;;
        esac
      done ;;
  esac
  COMPREPLY=($(compgen -W "$words" -- "$word"))
}
complete -o default -F _tidegate_iptables iptables ip6tables
