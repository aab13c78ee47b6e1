_envelopefs__keyserver() {
    local i cur prev opts cmd
    COMPREPLY=()
    if [[ "${BASH_VERSINFO[0]}" -ge 4 ]]; then
        cur="$2"
    else
        cur="${COMP_WORDS[COMP_CWORD]}"
    fi
    prev="$3"
    cmd=""
    opts=""

    for i in "${COMP_WORDS[@]:0:COMP_CWORD}"
    do
        case "${cmd},${i}" in
            ",$1")
                cmd="envelopefs__keyserver"
                ;;
            envelopefs__keyserver,audit)
                cmd="envelopefs__keyserver__subcmd__audit"
                ;;
            envelopefs__keyserver,backup)
                cmd="envelopefs__keyserver__subcmd__backup"
                ;;
            envelopefs__keyserver,check-config)
                cmd="envelopefs__keyserver__subcmd__check__subcmd__config"
                ;;
            envelopefs__keyserver,generate)
                cmd="envelopefs__keyserver__subcmd__generate"
                ;;
            envelopefs__keyserver,help)
                cmd="envelopefs__keyserver__subcmd__help"
                ;;
            envelopefs__keyserver,init)
                cmd="envelopefs__keyserver__subcmd__init"
                ;;
            envelopefs__keyserver,key)
                cmd="envelopefs__keyserver__subcmd__key"
                ;;
            envelopefs__keyserver,pin)
                cmd="envelopefs__keyserver__subcmd__pin"
                ;;
            envelopefs__keyserver,probe)
                cmd="envelopefs__keyserver__subcmd__probe"
                ;;
            envelopefs__keyserver,restore)
                cmd="envelopefs__keyserver__subcmd__restore"
                ;;
            envelopefs__keyserver,serve)
                cmd="envelopefs__keyserver__subcmd__serve"
                ;;
            envelopefs__keyserver,status)
                cmd="envelopefs__keyserver__subcmd__status"
                ;;
            envelopefs__keyserver,tenant)
                cmd="envelopefs__keyserver__subcmd__tenant"
                ;;
            envelopefs__keyserver,token)
                cmd="envelopefs__keyserver__subcmd__token"
                ;;
            envelopefs__keyserver__subcmd__audit,help)
                cmd="envelopefs__keyserver__subcmd__audit__subcmd__help"
                ;;
            envelopefs__keyserver__subcmd__audit,tail)
                cmd="envelopefs__keyserver__subcmd__audit__subcmd__tail"
                ;;
            envelopefs__keyserver__subcmd__audit,verify)
                cmd="envelopefs__keyserver__subcmd__audit__subcmd__verify"
                ;;
            envelopefs__keyserver__subcmd__audit__subcmd__help,help)
                cmd="envelopefs__keyserver__subcmd__audit__subcmd__help__subcmd__help"
                ;;
            envelopefs__keyserver__subcmd__audit__subcmd__help,tail)
                cmd="envelopefs__keyserver__subcmd__audit__subcmd__help__subcmd__tail"
                ;;
            envelopefs__keyserver__subcmd__audit__subcmd__help,verify)
                cmd="envelopefs__keyserver__subcmd__audit__subcmd__help__subcmd__verify"
                ;;
            envelopefs__keyserver__subcmd__help,audit)
                cmd="envelopefs__keyserver__subcmd__help__subcmd__audit"
                ;;
            envelopefs__keyserver__subcmd__help,backup)
                cmd="envelopefs__keyserver__subcmd__help__subcmd__backup"
                ;;
            envelopefs__keyserver__subcmd__help,check-config)
                cmd="envelopefs__keyserver__subcmd__help__subcmd__check__subcmd__config"
                ;;
            envelopefs__keyserver__subcmd__help,generate)
                cmd="envelopefs__keyserver__subcmd__help__subcmd__generate"
                ;;
            envelopefs__keyserver__subcmd__help,help)
                cmd="envelopefs__keyserver__subcmd__help__subcmd__help"
                ;;
            envelopefs__keyserver__subcmd__help,init)
                cmd="envelopefs__keyserver__subcmd__help__subcmd__init"
                ;;
            envelopefs__keyserver__subcmd__help,key)
                cmd="envelopefs__keyserver__subcmd__help__subcmd__key"
                ;;
            envelopefs__keyserver__subcmd__help,pin)
                cmd="envelopefs__keyserver__subcmd__help__subcmd__pin"
                ;;
            envelopefs__keyserver__subcmd__help,probe)
                cmd="envelopefs__keyserver__subcmd__help__subcmd__probe"
                ;;
            envelopefs__keyserver__subcmd__help,restore)
                cmd="envelopefs__keyserver__subcmd__help__subcmd__restore"
                ;;
            envelopefs__keyserver__subcmd__help,serve)
                cmd="envelopefs__keyserver__subcmd__help__subcmd__serve"
                ;;
            envelopefs__keyserver__subcmd__help,status)
                cmd="envelopefs__keyserver__subcmd__help__subcmd__status"
                ;;
            envelopefs__keyserver__subcmd__help,tenant)
                cmd="envelopefs__keyserver__subcmd__help__subcmd__tenant"
                ;;
            envelopefs__keyserver__subcmd__help,token)
                cmd="envelopefs__keyserver__subcmd__help__subcmd__token"
                ;;
            envelopefs__keyserver__subcmd__help__subcmd__audit,tail)
                cmd="envelopefs__keyserver__subcmd__help__subcmd__audit__subcmd__tail"
                ;;
            envelopefs__keyserver__subcmd__help__subcmd__audit,verify)
                cmd="envelopefs__keyserver__subcmd__help__subcmd__audit__subcmd__verify"
                ;;
            envelopefs__keyserver__subcmd__help__subcmd__key,destroy)
                cmd="envelopefs__keyserver__subcmd__help__subcmd__key__subcmd__destroy"
                ;;
            envelopefs__keyserver__subcmd__help__subcmd__key,list)
                cmd="envelopefs__keyserver__subcmd__help__subcmd__key__subcmd__list"
                ;;
            envelopefs__keyserver__subcmd__help__subcmd__key,retire)
                cmd="envelopefs__keyserver__subcmd__help__subcmd__key__subcmd__retire"
                ;;
            envelopefs__keyserver__subcmd__help__subcmd__key,rotate)
                cmd="envelopefs__keyserver__subcmd__help__subcmd__key__subcmd__rotate"
                ;;
            envelopefs__keyserver__subcmd__help__subcmd__key__subcmd__retire,customer)
                cmd="envelopefs__keyserver__subcmd__help__subcmd__key__subcmd__retire__subcmd__customer"
                ;;
            envelopefs__keyserver__subcmd__help__subcmd__key__subcmd__rotate,customer)
                cmd="envelopefs__keyserver__subcmd__help__subcmd__key__subcmd__rotate__subcmd__customer"
                ;;
            envelopefs__keyserver__subcmd__help__subcmd__key__subcmd__rotate,domain)
                cmd="envelopefs__keyserver__subcmd__help__subcmd__key__subcmd__rotate__subcmd__domain"
                ;;
            envelopefs__keyserver__subcmd__help__subcmd__key__subcmd__rotate,signing)
                cmd="envelopefs__keyserver__subcmd__help__subcmd__key__subcmd__rotate__subcmd__signing"
                ;;
            envelopefs__keyserver__subcmd__help__subcmd__tenant,add)
                cmd="envelopefs__keyserver__subcmd__help__subcmd__tenant__subcmd__add"
                ;;
            envelopefs__keyserver__subcmd__help__subcmd__tenant,disable)
                cmd="envelopefs__keyserver__subcmd__help__subcmd__tenant__subcmd__disable"
                ;;
            envelopefs__keyserver__subcmd__help__subcmd__tenant,enable)
                cmd="envelopefs__keyserver__subcmd__help__subcmd__tenant__subcmd__enable"
                ;;
            envelopefs__keyserver__subcmd__help__subcmd__tenant,list)
                cmd="envelopefs__keyserver__subcmd__help__subcmd__tenant__subcmd__list"
                ;;
            envelopefs__keyserver__subcmd__help__subcmd__tenant,set)
                cmd="envelopefs__keyserver__subcmd__help__subcmd__tenant__subcmd__set"
                ;;
            envelopefs__keyserver__subcmd__help__subcmd__tenant,show)
                cmd="envelopefs__keyserver__subcmd__help__subcmd__tenant__subcmd__show"
                ;;
            envelopefs__keyserver__subcmd__help__subcmd__token,add)
                cmd="envelopefs__keyserver__subcmd__help__subcmd__token__subcmd__add"
                ;;
            envelopefs__keyserver__subcmd__help__subcmd__token,disable)
                cmd="envelopefs__keyserver__subcmd__help__subcmd__token__subcmd__disable"
                ;;
            envelopefs__keyserver__subcmd__help__subcmd__token,list)
                cmd="envelopefs__keyserver__subcmd__help__subcmd__token__subcmd__list"
                ;;
            envelopefs__keyserver__subcmd__key,destroy)
                cmd="envelopefs__keyserver__subcmd__key__subcmd__destroy"
                ;;
            envelopefs__keyserver__subcmd__key,help)
                cmd="envelopefs__keyserver__subcmd__key__subcmd__help"
                ;;
            envelopefs__keyserver__subcmd__key,list)
                cmd="envelopefs__keyserver__subcmd__key__subcmd__list"
                ;;
            envelopefs__keyserver__subcmd__key,retire)
                cmd="envelopefs__keyserver__subcmd__key__subcmd__retire"
                ;;
            envelopefs__keyserver__subcmd__key,rotate)
                cmd="envelopefs__keyserver__subcmd__key__subcmd__rotate"
                ;;
            envelopefs__keyserver__subcmd__key__subcmd__help,destroy)
                cmd="envelopefs__keyserver__subcmd__key__subcmd__help__subcmd__destroy"
                ;;
            envelopefs__keyserver__subcmd__key__subcmd__help,help)
                cmd="envelopefs__keyserver__subcmd__key__subcmd__help__subcmd__help"
                ;;
            envelopefs__keyserver__subcmd__key__subcmd__help,list)
                cmd="envelopefs__keyserver__subcmd__key__subcmd__help__subcmd__list"
                ;;
            envelopefs__keyserver__subcmd__key__subcmd__help,retire)
                cmd="envelopefs__keyserver__subcmd__key__subcmd__help__subcmd__retire"
                ;;
            envelopefs__keyserver__subcmd__key__subcmd__help,rotate)
                cmd="envelopefs__keyserver__subcmd__key__subcmd__help__subcmd__rotate"
                ;;
            envelopefs__keyserver__subcmd__key__subcmd__help__subcmd__retire,customer)
                cmd="envelopefs__keyserver__subcmd__key__subcmd__help__subcmd__retire__subcmd__customer"
                ;;
            envelopefs__keyserver__subcmd__key__subcmd__help__subcmd__rotate,customer)
                cmd="envelopefs__keyserver__subcmd__key__subcmd__help__subcmd__rotate__subcmd__customer"
                ;;
            envelopefs__keyserver__subcmd__key__subcmd__help__subcmd__rotate,domain)
                cmd="envelopefs__keyserver__subcmd__key__subcmd__help__subcmd__rotate__subcmd__domain"
                ;;
            envelopefs__keyserver__subcmd__key__subcmd__help__subcmd__rotate,signing)
                cmd="envelopefs__keyserver__subcmd__key__subcmd__help__subcmd__rotate__subcmd__signing"
                ;;
            envelopefs__keyserver__subcmd__key__subcmd__retire,customer)
                cmd="envelopefs__keyserver__subcmd__key__subcmd__retire__subcmd__customer"
                ;;
            envelopefs__keyserver__subcmd__key__subcmd__retire,help)
                cmd="envelopefs__keyserver__subcmd__key__subcmd__retire__subcmd__help"
                ;;
            envelopefs__keyserver__subcmd__key__subcmd__retire__subcmd__help,customer)
                cmd="envelopefs__keyserver__subcmd__key__subcmd__retire__subcmd__help__subcmd__customer"
                ;;
            envelopefs__keyserver__subcmd__key__subcmd__retire__subcmd__help,help)
                cmd="envelopefs__keyserver__subcmd__key__subcmd__retire__subcmd__help__subcmd__help"
                ;;
            envelopefs__keyserver__subcmd__key__subcmd__rotate,customer)
                cmd="envelopefs__keyserver__subcmd__key__subcmd__rotate__subcmd__customer"
                ;;
            envelopefs__keyserver__subcmd__key__subcmd__rotate,domain)
                cmd="envelopefs__keyserver__subcmd__key__subcmd__rotate__subcmd__domain"
                ;;
            envelopefs__keyserver__subcmd__key__subcmd__rotate,help)
                cmd="envelopefs__keyserver__subcmd__key__subcmd__rotate__subcmd__help"
                ;;
            envelopefs__keyserver__subcmd__key__subcmd__rotate,signing)
                cmd="envelopefs__keyserver__subcmd__key__subcmd__rotate__subcmd__signing"
                ;;
            envelopefs__keyserver__subcmd__key__subcmd__rotate__subcmd__help,customer)
                cmd="envelopefs__keyserver__subcmd__key__subcmd__rotate__subcmd__help__subcmd__customer"
                ;;
            envelopefs__keyserver__subcmd__key__subcmd__rotate__subcmd__help,domain)
                cmd="envelopefs__keyserver__subcmd__key__subcmd__rotate__subcmd__help__subcmd__domain"
                ;;
            envelopefs__keyserver__subcmd__key__subcmd__rotate__subcmd__help,help)
                cmd="envelopefs__keyserver__subcmd__key__subcmd__rotate__subcmd__help__subcmd__help"
                ;;
            envelopefs__keyserver__subcmd__key__subcmd__rotate__subcmd__help,signing)
                cmd="envelopefs__keyserver__subcmd__key__subcmd__rotate__subcmd__help__subcmd__signing"
                ;;
            envelopefs__keyserver__subcmd__tenant,add)
                cmd="envelopefs__keyserver__subcmd__tenant__subcmd__add"
                ;;
            envelopefs__keyserver__subcmd__tenant,disable)
                cmd="envelopefs__keyserver__subcmd__tenant__subcmd__disable"
                ;;
            envelopefs__keyserver__subcmd__tenant,enable)
                cmd="envelopefs__keyserver__subcmd__tenant__subcmd__enable"
                ;;
            envelopefs__keyserver__subcmd__tenant,help)
                cmd="envelopefs__keyserver__subcmd__tenant__subcmd__help"
                ;;
            envelopefs__keyserver__subcmd__tenant,list)
                cmd="envelopefs__keyserver__subcmd__tenant__subcmd__list"
                ;;
            envelopefs__keyserver__subcmd__tenant,set)
                cmd="envelopefs__keyserver__subcmd__tenant__subcmd__set"
                ;;
            envelopefs__keyserver__subcmd__tenant,show)
                cmd="envelopefs__keyserver__subcmd__tenant__subcmd__show"
                ;;
            envelopefs__keyserver__subcmd__tenant__subcmd__help,add)
                cmd="envelopefs__keyserver__subcmd__tenant__subcmd__help__subcmd__add"
                ;;
            envelopefs__keyserver__subcmd__tenant__subcmd__help,disable)
                cmd="envelopefs__keyserver__subcmd__tenant__subcmd__help__subcmd__disable"
                ;;
            envelopefs__keyserver__subcmd__tenant__subcmd__help,enable)
                cmd="envelopefs__keyserver__subcmd__tenant__subcmd__help__subcmd__enable"
                ;;
            envelopefs__keyserver__subcmd__tenant__subcmd__help,help)
                cmd="envelopefs__keyserver__subcmd__tenant__subcmd__help__subcmd__help"
                ;;
            envelopefs__keyserver__subcmd__tenant__subcmd__help,list)
                cmd="envelopefs__keyserver__subcmd__tenant__subcmd__help__subcmd__list"
                ;;
            envelopefs__keyserver__subcmd__tenant__subcmd__help,set)
                cmd="envelopefs__keyserver__subcmd__tenant__subcmd__help__subcmd__set"
                ;;
            envelopefs__keyserver__subcmd__tenant__subcmd__help,show)
                cmd="envelopefs__keyserver__subcmd__tenant__subcmd__help__subcmd__show"
                ;;
            envelopefs__keyserver__subcmd__token,add)
                cmd="envelopefs__keyserver__subcmd__token__subcmd__add"
                ;;
            envelopefs__keyserver__subcmd__token,disable)
                cmd="envelopefs__keyserver__subcmd__token__subcmd__disable"
                ;;
            envelopefs__keyserver__subcmd__token,help)
                cmd="envelopefs__keyserver__subcmd__token__subcmd__help"
                ;;
            envelopefs__keyserver__subcmd__token,list)
                cmd="envelopefs__keyserver__subcmd__token__subcmd__list"
                ;;
            envelopefs__keyserver__subcmd__token__subcmd__help,add)
                cmd="envelopefs__keyserver__subcmd__token__subcmd__help__subcmd__add"
                ;;
            envelopefs__keyserver__subcmd__token__subcmd__help,disable)
                cmd="envelopefs__keyserver__subcmd__token__subcmd__help__subcmd__disable"
                ;;
            envelopefs__keyserver__subcmd__token__subcmd__help,help)
                cmd="envelopefs__keyserver__subcmd__token__subcmd__help__subcmd__help"
                ;;
            envelopefs__keyserver__subcmd__token__subcmd__help,list)
                cmd="envelopefs__keyserver__subcmd__token__subcmd__help__subcmd__list"
                ;;
            *)
                ;;
        esac
    done

    case "${cmd}" in
        envelopefs__keyserver)
            opts="-h -V --config --help --version init serve status tenant token key audit backup restore pin probe check-config generate help"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 1 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                --config)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__audit)
            opts="-h --config --help verify tail help"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 2 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                --config)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__audit__subcmd__help)
            opts="verify tail help"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 3 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__audit__subcmd__help__subcmd__help)
            opts=""
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 4 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__audit__subcmd__help__subcmd__tail)
            opts=""
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 4 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__audit__subcmd__help__subcmd__verify)
            opts=""
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 4 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__audit__subcmd__tail)
            opts="-n -f -h --tenant --lines --follow --json --config --help"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 3 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                --tenant)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --lines)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                -n)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --config)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__audit__subcmd__verify)
            opts="-h --key --tenant --max-age --json --config --help"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 3 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                --key)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --tenant)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --max-age)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --config)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__backup)
            opts="-h --json --config --help"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 2 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                --config)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__check__subcmd__config)
            opts="-h --json --config --help"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 2 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                --config)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__generate)
            opts="-h --config --help man completions"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 2 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                --config)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__help)
            opts="init serve status tenant token key audit backup restore pin probe check-config generate help"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 2 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__help__subcmd__audit)
            opts="verify tail"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 3 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__help__subcmd__audit__subcmd__tail)
            opts=""
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 4 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__help__subcmd__audit__subcmd__verify)
            opts=""
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 4 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__help__subcmd__backup)
            opts=""
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 3 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__help__subcmd__check__subcmd__config)
            opts=""
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 3 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__help__subcmd__generate)
            opts=""
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 3 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__help__subcmd__help)
            opts=""
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 3 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__help__subcmd__init)
            opts=""
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 3 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__help__subcmd__key)
            opts="list rotate retire destroy"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 3 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__help__subcmd__key__subcmd__destroy)
            opts=""
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 4 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__help__subcmd__key__subcmd__list)
            opts=""
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 4 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__help__subcmd__key__subcmd__retire)
            opts="customer"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 4 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__help__subcmd__key__subcmd__retire__subcmd__customer)
            opts=""
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 5 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__help__subcmd__key__subcmd__rotate)
            opts="domain customer signing"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 4 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__help__subcmd__key__subcmd__rotate__subcmd__customer)
            opts=""
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 5 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__help__subcmd__key__subcmd__rotate__subcmd__domain)
            opts=""
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 5 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__help__subcmd__key__subcmd__rotate__subcmd__signing)
            opts=""
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 5 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__help__subcmd__pin)
            opts=""
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 3 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__help__subcmd__probe)
            opts=""
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 3 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__help__subcmd__restore)
            opts=""
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 3 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__help__subcmd__serve)
            opts=""
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 3 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__help__subcmd__status)
            opts=""
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 3 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__help__subcmd__tenant)
            opts="add list show set disable enable"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 3 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__help__subcmd__tenant__subcmd__add)
            opts=""
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 4 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__help__subcmd__tenant__subcmd__disable)
            opts=""
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 4 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__help__subcmd__tenant__subcmd__enable)
            opts=""
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 4 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__help__subcmd__tenant__subcmd__list)
            opts=""
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 4 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__help__subcmd__tenant__subcmd__set)
            opts=""
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 4 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__help__subcmd__tenant__subcmd__show)
            opts=""
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 4 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__help__subcmd__token)
            opts="add list disable"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 3 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__help__subcmd__token__subcmd__add)
            opts=""
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 4 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__help__subcmd__token__subcmd__disable)
            opts=""
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 4 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__help__subcmd__token__subcmd__list)
            opts=""
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 4 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__init)
            opts="-h --tenant --account-id --policy --ca --crl --tokens --gateway --insecure-address --convert --requests-per-second --burst --attestation --signing-key --pin-file --pin-fd --dry-run --json --config --help"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 2 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                --tenant)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --account-id)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --policy)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --ca)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --crl)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --insecure-address)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --convert)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --requests-per-second)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --burst)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --attestation)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --signing-key)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --pin-file)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --pin-fd)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --config)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__key)
            opts="-h --config --help list rotate retire destroy help"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 2 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                --config)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__key__subcmd__destroy)
            opts="-h --yes --pin-file --pin-fd --dry-run --json --config --help"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 3 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                --pin-file)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --pin-fd)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --config)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__key__subcmd__help)
            opts="list rotate retire destroy help"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 3 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__key__subcmd__help__subcmd__destroy)
            opts=""
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 4 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__key__subcmd__help__subcmd__help)
            opts=""
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 4 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__key__subcmd__help__subcmd__list)
            opts=""
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 4 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__key__subcmd__help__subcmd__retire)
            opts="customer"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 4 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__key__subcmd__help__subcmd__retire__subcmd__customer)
            opts=""
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 5 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__key__subcmd__help__subcmd__rotate)
            opts="domain customer signing"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 4 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__key__subcmd__help__subcmd__rotate__subcmd__customer)
            opts=""
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 5 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__key__subcmd__help__subcmd__rotate__subcmd__domain)
            opts=""
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 5 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__key__subcmd__help__subcmd__rotate__subcmd__signing)
            opts=""
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 5 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__key__subcmd__list)
            opts="-h --json --config --help"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 3 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                --config)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__key__subcmd__retire)
            opts="-h --config --help customer help"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 3 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                --config)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__key__subcmd__retire__subcmd__customer)
            opts="-h --yes --pin-file --pin-fd --dry-run --json --config --help"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 4 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                --pin-file)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --pin-fd)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --config)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__key__subcmd__retire__subcmd__help)
            opts="customer help"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 4 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__key__subcmd__retire__subcmd__help__subcmd__customer)
            opts=""
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 5 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__key__subcmd__retire__subcmd__help__subcmd__help)
            opts=""
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 5 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__key__subcmd__rotate)
            opts="-h --config --help domain customer signing help"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 3 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                --config)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__key__subcmd__rotate__subcmd__customer)
            opts="-h --pin-file --pin-fd --dry-run --json --config --help"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 4 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                --pin-file)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --pin-fd)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --config)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__key__subcmd__rotate__subcmd__domain)
            opts="-h --pin-file --pin-fd --dry-run --json --config --help"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 4 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                --pin-file)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --pin-fd)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --config)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__key__subcmd__rotate__subcmd__help)
            opts="domain customer signing help"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 4 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__key__subcmd__rotate__subcmd__help__subcmd__customer)
            opts=""
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 5 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__key__subcmd__rotate__subcmd__help__subcmd__domain)
            opts=""
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 5 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__key__subcmd__rotate__subcmd__help__subcmd__help)
            opts=""
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 5 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__key__subcmd__rotate__subcmd__help__subcmd__signing)
            opts=""
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 5 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__key__subcmd__rotate__subcmd__signing)
            opts="-h --signing-key --pin-file --pin-fd --dry-run --json --config --help"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 4 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                --signing-key)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --pin-file)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --pin-fd)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --config)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__pin)
            opts="-h --pin-file --pin-fd --force --config --help"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 2 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                --pin-file)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --pin-fd)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --config)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__probe)
            opts="-h --pin-file --pin-fd --json --config --help"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 2 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                --pin-file)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --pin-fd)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --config)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__restore)
            opts="-h --stopped --after --key --above --json --config --help"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 2 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                --after)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --key)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --above)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --config)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__serve)
            opts="-h --pin-file --pin-fd --config --help"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 2 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                --pin-file)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --pin-fd)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --config)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__status)
            opts="-h --wait --json --config --help"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 2 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                --wait)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --config)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__tenant)
            opts="-h --config --help add list show set disable enable help"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 2 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                --config)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__tenant__subcmd__add)
            opts="-h --account-id --policy --ca --crl --tokens --gateway --insecure-address --convert --requests-per-second --burst --attestation --pin-file --pin-fd --dry-run --json --config --help"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 3 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                --account-id)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --policy)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --ca)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --crl)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --insecure-address)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --convert)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --requests-per-second)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --burst)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --attestation)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --pin-file)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --pin-fd)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --config)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__tenant__subcmd__disable)
            opts="-h --pin-file --pin-fd --dry-run --json --config --help"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 3 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                --pin-file)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --pin-fd)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --config)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__tenant__subcmd__enable)
            opts="-h --pin-file --pin-fd --dry-run --json --config --help"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 3 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                --pin-file)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --pin-fd)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --config)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__tenant__subcmd__help)
            opts="add list show set disable enable help"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 3 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__tenant__subcmd__help__subcmd__add)
            opts=""
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 4 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__tenant__subcmd__help__subcmd__disable)
            opts=""
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 4 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__tenant__subcmd__help__subcmd__enable)
            opts=""
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 4 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__tenant__subcmd__help__subcmd__help)
            opts=""
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 4 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__tenant__subcmd__help__subcmd__list)
            opts=""
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 4 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__tenant__subcmd__help__subcmd__set)
            opts=""
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 4 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__tenant__subcmd__help__subcmd__show)
            opts=""
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 4 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__tenant__subcmd__list)
            opts="-h --json --config --help"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 3 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                --config)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__tenant__subcmd__set)
            opts="-h --policy --ca --crl --tokens --gateway --insecure-address --convert --requests-per-second --burst --attestation --pin-file --pin-fd --dry-run --json --config --help"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 3 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                --policy)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --ca)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --crl)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --insecure-address)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --convert)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --requests-per-second)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --burst)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --attestation)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --pin-file)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --pin-fd)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --config)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__tenant__subcmd__show)
            opts="-h --json --config --help"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 3 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                --config)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__token)
            opts="-h --config --help add list disable help"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 2 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                --config)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__token__subcmd__add)
            opts="-h --instance --expires-in --out --pin-file --pin-fd --dry-run --json --config --help"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 3 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                --instance)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --expires-in)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --out)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --pin-file)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --pin-fd)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --config)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__token__subcmd__disable)
            opts="-h --pin-file --pin-fd --dry-run --json --config --help"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 3 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                --pin-file)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --pin-fd)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --config)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__token__subcmd__help)
            opts="add list disable help"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 3 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__token__subcmd__help__subcmd__add)
            opts=""
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 4 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__token__subcmd__help__subcmd__disable)
            opts=""
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 4 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__token__subcmd__help__subcmd__help)
            opts=""
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 4 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__token__subcmd__help__subcmd__list)
            opts=""
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 4 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        envelopefs__subcmd__keyserver__subcmd__token__subcmd__list)
            opts="-h --json --config --help"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 3 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                --config)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
    esac
}

if [[ "${BASH_VERSINFO[0]}" -eq 4 && "${BASH_VERSINFO[1]}" -ge 4 || "${BASH_VERSINFO[0]}" -gt 4 ]]; then
    complete -F _envelopefs__keyserver -o nosort -o bashdefault -o default envelopefs-keyserver
else
    complete -F _envelopefs__keyserver -o bashdefault -o default envelopefs-keyserver
fi
