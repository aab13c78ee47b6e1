# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_envelopefs_keyserver_global_optspecs
    string join \n config= h/help V/version
end

function __fish_envelopefs_keyserver_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_envelopefs_keyserver_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_envelopefs_keyserver_using_subcommand
    set -l cmd (__fish_envelopefs_keyserver_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_needs_command" -l config -d 'The configuration file' -r -F
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_needs_command" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_needs_command" -s V -l version -d 'Print version'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_needs_command" -f -a "init" -d 'Make an installation: keys in the token, the state, and the first tenant'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_needs_command" -f -a "serve" -d 'Serve until SIGTERM or SIGINT; SIGHUP reads certificates again'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_needs_command" -f -a "status" -d 'Tell whether the running server of this host is ready, and if not, why'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_needs_command" -f -a "tenant" -d 'Add, list, show, change, disable and enable tenants'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_needs_command" -f -a "token" -d 'Add, list and disable bearer tokens'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_needs_command" -f -a "key" -d 'List, rotate, retire and destroy keys'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_needs_command" -f -a "audit" -d 'Verify and show the audit log'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_needs_command" -f -a "backup" -d 'Write the state into a file, also while servers run. Keys of tokens are not in it: they are backed up by their vendor\'s means'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_needs_command" -f -a "restore" -d 'Make the state of a backup. The state named by the configuration must be empty'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_needs_command" -f -a "pin" -d 'Hand the PIN to a running server, through its admin listener'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_needs_command" -f -a "probe" -d 'Tell what the tokens can do, and try it'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_needs_command" -f -a "check-config" -d 'Read the configuration and everything that it names, and tell what is wrong'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_needs_command" -f -a "generate" -d 'Write man pages or shell completions into a directory'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand init" -l tenant -d 'The first tenant' -r
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand init" -l account-id -d 'Account id of the first tenant, which its audit records carry' -r
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand init" -l policy -d 'The whole policy, as a JSON file; the other options then change what it says' -r -F
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand init" -l ca -d 'PEM file with the CA whose certificates the tenant\'s instances show' -r -F
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand init" -l crl -d 'PEM file with that CA\'s revocation lists' -r -F
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand init" -l insecure-address -d 'Take whoever calls from this network for this instance. Weak: for tests on one machine' -r
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand init" -l convert -d 'Who may take over another instance\'s secrets (convert): off (default), any, or the instances that may be taken over, comma-separated' -r
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand init" -l requests-per-second -d 'Requests a second (default: limits.tenant_requests_per_second of the configuration)' -r
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand init" -l burst -d 'Requests that may come at once after a pause (default: limits.tenant_burst of the configuration)' -r
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand init" -l attestation -d 'What attestation reports must show, as a JSON file; "none" demands no reports any more' -r -F
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand init" -l signing-key -d 'Where to write the public signing key, which clients pin, as PEM; it must not exist yet' -r -F
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand init" -l pin-file -d 'File with the PIN, which only its owner may read' -r -F
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand init" -l pin-fd -d 'Read the PIN from this open file descriptor, up to its end' -r
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand init" -l config -d 'The configuration file' -r -F
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand init" -l tokens -d 'Let instances show bearer tokens (envelopefs-keyserver token add)'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand init" -l gateway -d 'Believe configured gateways which instance calls'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand init" -l dry-run -d 'Tell what would be done, and do nothing'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand init" -l json -d 'Print JSON'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand init" -s h -l help -d 'Print help'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand serve" -l pin-file -d 'File with the PIN, which only its owner may read. Without any, hsm.pin of the configuration; without that too, calls are refused until the PIN is handed in: envelopefs-keyserver pin' -r -F
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand serve" -l pin-fd -d 'Read the PIN from this open file descriptor, up to its end' -r
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand serve" -l config -d 'The configuration file' -r -F
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand serve" -s h -l help -d 'Print help'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand status" -l wait -d 'Wait so long for it to become ready: 30s, 5m' -r
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand status" -l config -d 'The configuration file' -r -F
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand status" -l json -d 'Print JSON'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand status" -s h -l help -d 'Print help'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand tenant; and not __fish_seen_subcommand_from add list show set disable enable help" -l config -d 'The configuration file' -r -F
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand tenant; and not __fish_seen_subcommand_from add list show set disable enable help" -s h -l help -d 'Print help'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand tenant; and not __fish_seen_subcommand_from add list show set disable enable help" -f -a "add" -d 'Add a tenant, and make its customer key'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand tenant; and not __fish_seen_subcommand_from add list show set disable enable help" -f -a "list" -d 'List the tenants'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand tenant; and not __fish_seen_subcommand_from add list show set disable enable help" -f -a "show" -d 'Show a tenant and its policy'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand tenant; and not __fish_seen_subcommand_from add list show set disable enable help" -f -a "set" -d 'Change what a tenant allows. What is not named stays'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand tenant; and not __fish_seen_subcommand_from add list show set disable enable help" -f -a "disable" -d 'Refuse a tenant\'s calls from now on, on open connections too'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand tenant; and not __fish_seen_subcommand_from add list show set disable enable help" -f -a "enable" -d 'Answer a tenant\'s calls again'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand tenant; and not __fish_seen_subcommand_from add list show set disable enable help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand tenant; and __fish_seen_subcommand_from add" -l account-id -d 'Its account id, which its audit records carry: 1 to 64 lower-case letters, digits and hyphens' -r
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand tenant; and __fish_seen_subcommand_from add" -l policy -d 'The whole policy, as a JSON file; the other options then change what it says' -r -F
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand tenant; and __fish_seen_subcommand_from add" -l ca -d 'PEM file with the CA whose certificates the tenant\'s instances show' -r -F
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand tenant; and __fish_seen_subcommand_from add" -l crl -d 'PEM file with that CA\'s revocation lists' -r -F
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand tenant; and __fish_seen_subcommand_from add" -l insecure-address -d 'Take whoever calls from this network for this instance. Weak: for tests on one machine' -r
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand tenant; and __fish_seen_subcommand_from add" -l convert -d 'Who may take over another instance\'s secrets (convert): off (default), any, or the instances that may be taken over, comma-separated' -r
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand tenant; and __fish_seen_subcommand_from add" -l requests-per-second -d 'Requests a second (default: limits.tenant_requests_per_second of the configuration)' -r
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand tenant; and __fish_seen_subcommand_from add" -l burst -d 'Requests that may come at once after a pause (default: limits.tenant_burst of the configuration)' -r
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand tenant; and __fish_seen_subcommand_from add" -l attestation -d 'What attestation reports must show, as a JSON file; "none" demands no reports any more' -r -F
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand tenant; and __fish_seen_subcommand_from add" -l pin-file -d 'File with the PIN, which only its owner may read' -r -F
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand tenant; and __fish_seen_subcommand_from add" -l pin-fd -d 'Read the PIN from this open file descriptor, up to its end' -r
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand tenant; and __fish_seen_subcommand_from add" -l config -d 'The configuration file' -r -F
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand tenant; and __fish_seen_subcommand_from add" -l tokens -d 'Let instances show bearer tokens (envelopefs-keyserver token add)'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand tenant; and __fish_seen_subcommand_from add" -l gateway -d 'Believe configured gateways which instance calls'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand tenant; and __fish_seen_subcommand_from add" -l dry-run -d 'Tell what would be done, and do nothing'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand tenant; and __fish_seen_subcommand_from add" -l json -d 'Print JSON'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand tenant; and __fish_seen_subcommand_from add" -s h -l help -d 'Print help'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand tenant; and __fish_seen_subcommand_from list" -l config -d 'The configuration file' -r -F
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand tenant; and __fish_seen_subcommand_from list" -l json -d 'Print JSON'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand tenant; and __fish_seen_subcommand_from list" -s h -l help -d 'Print help'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand tenant; and __fish_seen_subcommand_from show" -l config -d 'The configuration file' -r -F
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand tenant; and __fish_seen_subcommand_from show" -l json -d 'Print JSON'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand tenant; and __fish_seen_subcommand_from show" -s h -l help -d 'Print help'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand tenant; and __fish_seen_subcommand_from set" -l policy -d 'The whole policy, as a JSON file; the other options then change what it says' -r -F
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand tenant; and __fish_seen_subcommand_from set" -l ca -d 'PEM file with the CA whose certificates the tenant\'s instances show' -r -F
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand tenant; and __fish_seen_subcommand_from set" -l crl -d 'PEM file with that CA\'s revocation lists' -r -F
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand tenant; and __fish_seen_subcommand_from set" -l insecure-address -d 'Take whoever calls from this network for this instance. Weak: for tests on one machine' -r
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand tenant; and __fish_seen_subcommand_from set" -l convert -d 'Who may take over another instance\'s secrets (convert): off (default), any, or the instances that may be taken over, comma-separated' -r
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand tenant; and __fish_seen_subcommand_from set" -l requests-per-second -d 'Requests a second (default: limits.tenant_requests_per_second of the configuration)' -r
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand tenant; and __fish_seen_subcommand_from set" -l burst -d 'Requests that may come at once after a pause (default: limits.tenant_burst of the configuration)' -r
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand tenant; and __fish_seen_subcommand_from set" -l attestation -d 'What attestation reports must show, as a JSON file; "none" demands no reports any more' -r -F
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand tenant; and __fish_seen_subcommand_from set" -l pin-file -d 'File with the PIN, which only its owner may read' -r -F
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand tenant; and __fish_seen_subcommand_from set" -l pin-fd -d 'Read the PIN from this open file descriptor, up to its end' -r
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand tenant; and __fish_seen_subcommand_from set" -l config -d 'The configuration file' -r -F
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand tenant; and __fish_seen_subcommand_from set" -l tokens -d 'Let instances show bearer tokens (envelopefs-keyserver token add)'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand tenant; and __fish_seen_subcommand_from set" -l gateway -d 'Believe configured gateways which instance calls'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand tenant; and __fish_seen_subcommand_from set" -l dry-run -d 'Tell what would be done, and do nothing'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand tenant; and __fish_seen_subcommand_from set" -l json -d 'Print JSON'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand tenant; and __fish_seen_subcommand_from set" -s h -l help -d 'Print help'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand tenant; and __fish_seen_subcommand_from disable" -l pin-file -d 'File with the PIN, which only its owner may read' -r -F
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand tenant; and __fish_seen_subcommand_from disable" -l pin-fd -d 'Read the PIN from this open file descriptor, up to its end' -r
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand tenant; and __fish_seen_subcommand_from disable" -l config -d 'The configuration file' -r -F
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand tenant; and __fish_seen_subcommand_from disable" -l dry-run -d 'Tell what would be done, and do nothing'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand tenant; and __fish_seen_subcommand_from disable" -l json -d 'Print JSON'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand tenant; and __fish_seen_subcommand_from disable" -s h -l help -d 'Print help'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand tenant; and __fish_seen_subcommand_from enable" -l pin-file -d 'File with the PIN, which only its owner may read' -r -F
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand tenant; and __fish_seen_subcommand_from enable" -l pin-fd -d 'Read the PIN from this open file descriptor, up to its end' -r
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand tenant; and __fish_seen_subcommand_from enable" -l config -d 'The configuration file' -r -F
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand tenant; and __fish_seen_subcommand_from enable" -l dry-run -d 'Tell what would be done, and do nothing'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand tenant; and __fish_seen_subcommand_from enable" -l json -d 'Print JSON'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand tenant; and __fish_seen_subcommand_from enable" -s h -l help -d 'Print help'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand tenant; and __fish_seen_subcommand_from help" -f -a "add" -d 'Add a tenant, and make its customer key'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand tenant; and __fish_seen_subcommand_from help" -f -a "list" -d 'List the tenants'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand tenant; and __fish_seen_subcommand_from help" -f -a "show" -d 'Show a tenant and its policy'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand tenant; and __fish_seen_subcommand_from help" -f -a "set" -d 'Change what a tenant allows. What is not named stays'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand tenant; and __fish_seen_subcommand_from help" -f -a "disable" -d 'Refuse a tenant\'s calls from now on, on open connections too'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand tenant; and __fish_seen_subcommand_from help" -f -a "enable" -d 'Answer a tenant\'s calls again'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand tenant; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand token; and not __fish_seen_subcommand_from add list disable help" -l config -d 'The configuration file' -r -F
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand token; and not __fish_seen_subcommand_from add list disable help" -s h -l help -d 'Print help'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand token; and not __fish_seen_subcommand_from add list disable help" -f -a "add" -d 'Make a bearer token and write it into a new file. The server keeps a hash of it, and nobody can read it again'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand token; and not __fish_seen_subcommand_from add list disable help" -f -a "list" -d 'List a tenant\'s tokens, by their ids'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand token; and not __fish_seen_subcommand_from add list disable help" -f -a "disable" -d 'Refuse a token from now on'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand token; and not __fish_seen_subcommand_from add list disable help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand token; and __fish_seen_subcommand_from add" -l instance -d 'Instances that the bearer may be' -r
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand token; and __fish_seen_subcommand_from add" -l expires-in -d 'How long it is good for: 90d, 12h' -r
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand token; and __fish_seen_subcommand_from add" -l out -d 'Where to write it; the file must not exist yet, and gets mode 600' -r -F
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand token; and __fish_seen_subcommand_from add" -l pin-file -d 'File with the PIN, which only its owner may read' -r -F
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand token; and __fish_seen_subcommand_from add" -l pin-fd -d 'Read the PIN from this open file descriptor, up to its end' -r
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand token; and __fish_seen_subcommand_from add" -l config -d 'The configuration file' -r -F
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand token; and __fish_seen_subcommand_from add" -l dry-run -d 'Tell what would be done, and do nothing'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand token; and __fish_seen_subcommand_from add" -l json -d 'Print JSON'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand token; and __fish_seen_subcommand_from add" -s h -l help -d 'Print help'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand token; and __fish_seen_subcommand_from list" -l config -d 'The configuration file' -r -F
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand token; and __fish_seen_subcommand_from list" -l json -d 'Print JSON'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand token; and __fish_seen_subcommand_from list" -s h -l help -d 'Print help'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand token; and __fish_seen_subcommand_from disable" -l pin-file -d 'File with the PIN, which only its owner may read' -r -F
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand token; and __fish_seen_subcommand_from disable" -l pin-fd -d 'Read the PIN from this open file descriptor, up to its end' -r
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand token; and __fish_seen_subcommand_from disable" -l config -d 'The configuration file' -r -F
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand token; and __fish_seen_subcommand_from disable" -l dry-run -d 'Tell what would be done, and do nothing'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand token; and __fish_seen_subcommand_from disable" -l json -d 'Print JSON'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand token; and __fish_seen_subcommand_from disable" -s h -l help -d 'Print help'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand token; and __fish_seen_subcommand_from help" -f -a "add" -d 'Make a bearer token and write it into a new file. The server keeps a hash of it, and nobody can read it again'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand token; and __fish_seen_subcommand_from help" -f -a "list" -d 'List a tenant\'s tokens, by their ids'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand token; and __fish_seen_subcommand_from help" -f -a "disable" -d 'Refuse a token from now on'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand token; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand key; and not __fish_seen_subcommand_from list rotate retire destroy help" -l config -d 'The configuration file' -r -F
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand key; and not __fish_seen_subcommand_from list rotate retire destroy help" -s h -l help -d 'Print help'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand key; and not __fish_seen_subcommand_from list rotate retire destroy help" -f -a "list" -d 'List domain keys, signing keys and customer keys'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand key; and not __fish_seen_subcommand_from list rotate retire destroy help" -f -a "rotate" -d 'Make a new key of a kind and use it from now on'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand key; and not __fish_seen_subcommand_from list rotate retire destroy help" -f -a "retire" -d 'Stop using an old key'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand key; and not __fish_seen_subcommand_from list rotate retire destroy help" -f -a "destroy" -d 'Destroy a retired domain or signing key in the tokens, for good. Of a signing key only the private half: it goes on verifying'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand key; and not __fish_seen_subcommand_from list rotate retire destroy help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand key; and __fish_seen_subcommand_from list" -l config -d 'The configuration file' -r -F
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand key; and __fish_seen_subcommand_from list" -l json -d 'Print JSON'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand key; and __fish_seen_subcommand_from list" -s h -l help -d 'Print help'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand key; and __fish_seen_subcommand_from rotate" -l config -d 'The configuration file' -r -F
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand key; and __fish_seen_subcommand_from rotate" -s h -l help -d 'Print help'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand key; and __fish_seen_subcommand_from rotate" -f -a "domain" -d 'A new domain key, under which every customer key is wrapped anew. Clients notice nothing. May be run again after an interruption'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand key; and __fish_seen_subcommand_from rotate" -f -a "customer" -d 'A new version of a tenant\'s customer key, which seals from now on. Old blobs open until the old version is retired'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand key; and __fish_seen_subcommand_from rotate" -f -a "signing" -d 'A new signing key, signed by the old one. Clients that pin the old key refuse every answer until they pin the new one'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand key; and __fish_seen_subcommand_from rotate" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand key; and __fish_seen_subcommand_from retire" -l config -d 'The configuration file' -r -F
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand key; and __fish_seen_subcommand_from retire" -s h -l help -d 'Print help'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand key; and __fish_seen_subcommand_from retire" -f -a "customer" -d 'An old version of a tenant\'s customer key: what was sealed under it opens never again, and its wrapped form is erased'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand key; and __fish_seen_subcommand_from retire" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand key; and __fish_seen_subcommand_from destroy" -l pin-file -d 'File with the PIN, which only its owner may read' -r -F
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand key; and __fish_seen_subcommand_from destroy" -l pin-fd -d 'Read the PIN from this open file descriptor, up to its end' -r
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand key; and __fish_seen_subcommand_from destroy" -l config -d 'The configuration file' -r -F
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand key; and __fish_seen_subcommand_from destroy" -l yes -d 'Say that it cannot be brought back'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand key; and __fish_seen_subcommand_from destroy" -l dry-run -d 'Tell what would be done, and do nothing'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand key; and __fish_seen_subcommand_from destroy" -l json -d 'Print JSON'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand key; and __fish_seen_subcommand_from destroy" -s h -l help -d 'Print help'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand key; and __fish_seen_subcommand_from help" -f -a "list" -d 'List domain keys, signing keys and customer keys'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand key; and __fish_seen_subcommand_from help" -f -a "rotate" -d 'Make a new key of a kind and use it from now on'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand key; and __fish_seen_subcommand_from help" -f -a "retire" -d 'Stop using an old key'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand key; and __fish_seen_subcommand_from help" -f -a "destroy" -d 'Destroy a retired domain or signing key in the tokens, for good. Of a signing key only the private half: it goes on verifying'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand key; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand audit; and not __fish_seen_subcommand_from verify tail help" -l config -d 'The configuration file' -r -F
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand audit; and not __fish_seen_subcommand_from verify tail help" -s h -l help -d 'Print help'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand audit; and not __fish_seen_subcommand_from verify tail help" -f -a "verify" -d 'Verify signatures, numbers and the chain of records, and name the first fault'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand audit; and not __fish_seen_subcommand_from verify tail help" -f -a "tail" -d 'Show records, for people'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand audit; and not __fish_seen_subcommand_from verify tail help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand audit; and __fish_seen_subcommand_from verify" -l key -d 'PEM file with the signing keys to believe; may be given several times. The copy that was made at init, not the server\'s word, is evidence' -r -F
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand audit; and __fish_seen_subcommand_from verify" -l tenant -d 'This tenant\'s records alone. Default: all' -r
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand audit; and __fish_seen_subcommand_from verify" -l max-age -d 'Records after the last signed head that are older than this are a fault: 2h. For a server that runs; give more than its audit.head_time' -r
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand audit; and __fish_seen_subcommand_from verify" -l config -d 'The configuration file' -r -F
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand audit; and __fish_seen_subcommand_from verify" -l json -d 'Print JSON'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand audit; and __fish_seen_subcommand_from verify" -s h -l help -d 'Print help'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand audit; and __fish_seen_subcommand_from tail" -l tenant -d 'This tenant\'s records. Default: all' -r
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand audit; and __fish_seen_subcommand_from tail" -s n -l lines -d 'How many of the last records' -r
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand audit; and __fish_seen_subcommand_from tail" -l config -d 'The configuration file' -r -F
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand audit; and __fish_seen_subcommand_from tail" -s f -l follow -d 'Go on with new records until interrupted'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand audit; and __fish_seen_subcommand_from tail" -l json -d 'Print the records themselves, one a line'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand audit; and __fish_seen_subcommand_from tail" -s h -l help -d 'Print help'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand audit; and __fish_seen_subcommand_from help" -f -a "verify" -d 'Verify signatures, numbers and the chain of records, and name the first fault'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand audit; and __fish_seen_subcommand_from help" -f -a "tail" -d 'Show records, for people'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand audit; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand backup" -l config -d 'The configuration file' -r -F
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand backup" -l json -d 'Print JSON'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand backup" -s h -l help -d 'Print help'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand restore" -l after -d 'Bring in the records that are newer than the backup from these copies: a directory, with a slash in its path, or the name of a sink of the configuration. They are verified' -r
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand restore" -l key -d 'PEM file with the signing keys to believe in copies; may be given several times' -r -F
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand restore" -l above -d 'Nobody knows what was recorded after the backup, but no log went beyond this number: go on above it. Verification names the gap' -r
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand restore" -l config -d 'The configuration file' -r -F
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand restore" -l stopped -d 'The audit log goes on where the backup ends: servers were stopped before the backup, and have not run since'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand restore" -l json -d 'Print JSON'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand restore" -s h -l help -d 'Print help'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand pin" -l pin-file -d 'File with the PIN, which only its owner may read. Without any, the PIN is asked for on the terminal' -r -F
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand pin" -l pin-fd -d 'Read the PIN from this open file descriptor, up to its end' -r
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand pin" -l config -d 'The configuration file' -r -F
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand pin" -l force -d 'Try although a PIN was refused before: each wrong one brings the token nearer to locking itself'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand pin" -s h -l help -d 'Print help'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand probe" -l pin-file -d 'File with the PIN, which only its owner may read' -r -F
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand probe" -l pin-fd -d 'Read the PIN from this open file descriptor, up to its end' -r
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand probe" -l config -d 'The configuration file' -r -F
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand probe" -l json -d 'Print JSON'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand probe" -s h -l help -d 'Print help'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand check-config" -l config -d 'The configuration file' -r -F
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand check-config" -l json -d 'Print JSON'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand check-config" -s h -l help -d 'Print help'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand generate" -l config -d 'The configuration file' -r -F
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand generate" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand help; and not __fish_seen_subcommand_from init serve status tenant token key audit backup restore pin probe check-config generate help" -f -a "init" -d 'Make an installation: keys in the token, the state, and the first tenant'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand help; and not __fish_seen_subcommand_from init serve status tenant token key audit backup restore pin probe check-config generate help" -f -a "serve" -d 'Serve until SIGTERM or SIGINT; SIGHUP reads certificates again'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand help; and not __fish_seen_subcommand_from init serve status tenant token key audit backup restore pin probe check-config generate help" -f -a "status" -d 'Tell whether the running server of this host is ready, and if not, why'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand help; and not __fish_seen_subcommand_from init serve status tenant token key audit backup restore pin probe check-config generate help" -f -a "tenant" -d 'Add, list, show, change, disable and enable tenants'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand help; and not __fish_seen_subcommand_from init serve status tenant token key audit backup restore pin probe check-config generate help" -f -a "token" -d 'Add, list and disable bearer tokens'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand help; and not __fish_seen_subcommand_from init serve status tenant token key audit backup restore pin probe check-config generate help" -f -a "key" -d 'List, rotate, retire and destroy keys'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand help; and not __fish_seen_subcommand_from init serve status tenant token key audit backup restore pin probe check-config generate help" -f -a "audit" -d 'Verify and show the audit log'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand help; and not __fish_seen_subcommand_from init serve status tenant token key audit backup restore pin probe check-config generate help" -f -a "backup" -d 'Write the state into a file, also while servers run. Keys of tokens are not in it: they are backed up by their vendor\'s means'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand help; and not __fish_seen_subcommand_from init serve status tenant token key audit backup restore pin probe check-config generate help" -f -a "restore" -d 'Make the state of a backup. The state named by the configuration must be empty'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand help; and not __fish_seen_subcommand_from init serve status tenant token key audit backup restore pin probe check-config generate help" -f -a "pin" -d 'Hand the PIN to a running server, through its admin listener'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand help; and not __fish_seen_subcommand_from init serve status tenant token key audit backup restore pin probe check-config generate help" -f -a "probe" -d 'Tell what the tokens can do, and try it'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand help; and not __fish_seen_subcommand_from init serve status tenant token key audit backup restore pin probe check-config generate help" -f -a "check-config" -d 'Read the configuration and everything that it names, and tell what is wrong'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand help; and not __fish_seen_subcommand_from init serve status tenant token key audit backup restore pin probe check-config generate help" -f -a "generate" -d 'Write man pages or shell completions into a directory'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand help; and not __fish_seen_subcommand_from init serve status tenant token key audit backup restore pin probe check-config generate help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand help; and __fish_seen_subcommand_from tenant" -f -a "add" -d 'Add a tenant, and make its customer key'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand help; and __fish_seen_subcommand_from tenant" -f -a "list" -d 'List the tenants'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand help; and __fish_seen_subcommand_from tenant" -f -a "show" -d 'Show a tenant and its policy'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand help; and __fish_seen_subcommand_from tenant" -f -a "set" -d 'Change what a tenant allows. What is not named stays'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand help; and __fish_seen_subcommand_from tenant" -f -a "disable" -d 'Refuse a tenant\'s calls from now on, on open connections too'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand help; and __fish_seen_subcommand_from tenant" -f -a "enable" -d 'Answer a tenant\'s calls again'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand help; and __fish_seen_subcommand_from token" -f -a "add" -d 'Make a bearer token and write it into a new file. The server keeps a hash of it, and nobody can read it again'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand help; and __fish_seen_subcommand_from token" -f -a "list" -d 'List a tenant\'s tokens, by their ids'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand help; and __fish_seen_subcommand_from token" -f -a "disable" -d 'Refuse a token from now on'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand help; and __fish_seen_subcommand_from key" -f -a "list" -d 'List domain keys, signing keys and customer keys'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand help; and __fish_seen_subcommand_from key" -f -a "rotate" -d 'Make a new key of a kind and use it from now on'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand help; and __fish_seen_subcommand_from key" -f -a "retire" -d 'Stop using an old key'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand help; and __fish_seen_subcommand_from key" -f -a "destroy" -d 'Destroy a retired domain or signing key in the tokens, for good. Of a signing key only the private half: it goes on verifying'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand help; and __fish_seen_subcommand_from audit" -f -a "verify" -d 'Verify signatures, numbers and the chain of records, and name the first fault'
complete -c envelopefs-keyserver -n "__fish_envelopefs_keyserver_using_subcommand help; and __fish_seen_subcommand_from audit" -f -a "tail" -d 'Show records, for people'
