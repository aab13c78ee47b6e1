# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_envelopefs_global_optspecs
    string join \n h/help V/version
end

function __fish_envelopefs_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_envelopefs_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_envelopefs_using_subcommand
    set -l cmd (__fish_envelopefs_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c envelopefs -n "__fish_envelopefs_needs_command" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c envelopefs -n "__fish_envelopefs_needs_command" -s V -l version -d 'Print version'
complete -c envelopefs -n "__fish_envelopefs_needs_command" -f -a "init" -d 'Make an encrypted volume in an empty directory'
complete -c envelopefs -n "__fish_envelopefs_needs_command" -f -a "mount" -d 'Show a volume in plain at a mountpoint'
complete -c envelopefs -n "__fish_envelopefs_needs_command" -f -a "umount" -d 'Unmount a volume and wait until everything is written'
complete -c envelopefs -n "__fish_envelopefs_needs_command" -f -a "info" -d 'Tell what a volume says of itself; needs no key'
complete -c envelopefs -n "__fish_envelopefs_needs_command" -f -a "check" -d 'Verify every header, tree node and chunk of a volume that is not mounted'
complete -c envelopefs -n "__fish_envelopefs_needs_command" -f -a "key" -d 'List, add and remove key slots'
complete -c envelopefs -n "__fish_envelopefs_needs_command" -f -a "generate" -d 'Write man pages or shell completions into a directory'
complete -c envelopefs -n "__fish_envelopefs_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand init" -l key-file -d 'File with the 32 bytes of a key; only its owner may have rights to it' -r -F
complete -c envelopefs -n "__fish_envelopefs_using_subcommand init" -l passphrase-file -d 'File with a passphrase; one line ending at its end is not part of it' -r -F
complete -c envelopefs -n "__fish_envelopefs_using_subcommand init" -l passphrase-fd -d 'Read a passphrase from this open file descriptor up to its end' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand init" -l provider -d 'A key provider, as kind:target?name=value&name=value, or the path of a file that says the same in TOML' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand init" -l label -d 'A name for the key slot, for people' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand init" -l argon2-memory -d 'Memory in MiB' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand init" -l argon2-passes -d 'Passes over the memory' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand init" -l argon2-lanes -d 'Lanes (threads)' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand init" -l make-key-file -d 'Make the key file named by --key-file; it must not exist yet'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand init" -s h -l help -d 'Print help'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand mount" -l key-file -d 'File with the 32 bytes of a key; only its owner may have rights to it' -r -F
complete -c envelopefs -n "__fish_envelopefs_using_subcommand mount" -l passphrase-file -d 'File with a passphrase; one line ending at its end is not part of it' -r -F
complete -c envelopefs -n "__fish_envelopefs_using_subcommand mount" -l passphrase-fd -d 'Read a passphrase from this open file descriptor up to its end' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand mount" -l provider -d 'A key provider, as kind:target?name=value&name=value, or the path of a file that says the same in TOML' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand mount" -s o -d 'Mount options, comma-separated: ro, rw, allow_other, allow_root, default_permissions, exec, noexec, suid, nosuid, dev, nodev, atime, noatime, sync, async, dirsync, nonempty, key_file=PATH, passphrase_file=PATH, provider=SPEC, volume_id=UUID, threads=N, log_file=PATH, journal_size=MiB.' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand mount" -l volume-id -d 'Refuse any volume but this one' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand mount" -l log-file -d 'Append messages to this file instead of sending them to the system log' -r -F
complete -c envelopefs -n "__fish_envelopefs_using_subcommand mount" -s t -d 'As mount(8) passes it; of no effect' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand mount" -s f -l foreground -d 'Stay in the foreground; messages go to standard error'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand mount" -s n -d 'As mount(8) passes it; of no effect'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand mount" -s v -d 'As mount(8) passes it; of no effect'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand mount" -s s -d 'As mount(8) passes it; of no effect'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand mount" -s h -l help -d 'Print help'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand umount" -s l -l lazy -d 'Take a mount that is in use out of the tree now; it ends with its last user'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand umount" -s h -l help -d 'Print help'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand info" -s h -l help -d 'Print help'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand check" -l key-file -d 'File with the 32 bytes of a key; only its owner may have rights to it' -r -F
complete -c envelopefs -n "__fish_envelopefs_using_subcommand check" -l passphrase-file -d 'File with a passphrase; one line ending at its end is not part of it' -r -F
complete -c envelopefs -n "__fish_envelopefs_using_subcommand check" -l passphrase-fd -d 'Read a passphrase from this open file descriptor up to its end' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand check" -l provider -d 'A key provider, as kind:target?name=value&name=value, or the path of a file that says the same in TOML' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand check" -l volume-id -d 'Refuse any volume but this one' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand check" -l threads -d 'Threads that verify; by default one for each processor' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand check" -s q -l quiet -d 'No progress bar'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand check" -s h -l help -d 'Print help'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and not __fish_seen_subcommand_from list add remove help" -s h -l help -d 'Print help'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and not __fish_seen_subcommand_from list add remove help" -f -a "list" -d 'List key versions and slots; needs no key'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and not __fish_seen_subcommand_from list add remove help" -f -a "add" -d 'Add a slot, so that a further credential opens the volume'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and not __fish_seen_subcommand_from list add remove help" -f -a "remove" -d 'Remove a slot'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and not __fish_seen_subcommand_from list add remove help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from list" -s h -l help -d 'Print help'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from add" -l key-file -d 'File with the 32 bytes of a key; only its owner may have rights to it' -r -F
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from add" -l passphrase-file -d 'File with a passphrase; one line ending at its end is not part of it' -r -F
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from add" -l passphrase-fd -d 'Read a passphrase from this open file descriptor up to its end' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from add" -l provider -d 'A key provider, as kind:target?name=value&name=value, or the path of a file that says the same in TOML' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from add" -l new-key-file -d 'New slot: file with the 32 bytes of a key' -r -F
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from add" -l new-passphrase-file -d 'New slot: file with a passphrase' -r -F
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from add" -l new-passphrase-fd -d 'New slot: read a passphrase from this file descriptor' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from add" -l new-provider -d 'New slot: a key provider, as --provider names it' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from add" -l label -d 'A name for the new slot, for people' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from add" -l argon2-memory -d 'Memory in MiB' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from add" -l argon2-passes -d 'Passes over the memory' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from add" -l argon2-lanes -d 'Lanes (threads)' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from add" -l make-key-file -d 'Make the key file named by --new-key-file; it must not exist yet'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from add" -s h -l help -d 'Print help'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from remove" -l key-file -d 'File with the 32 bytes of a key; only its owner may have rights to it' -r -F
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from remove" -l passphrase-file -d 'File with a passphrase; one line ending at its end is not part of it' -r -F
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from remove" -l passphrase-fd -d 'Read a passphrase from this open file descriptor up to its end' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from remove" -l provider -d 'A key provider, as kind:target?name=value&name=value, or the path of a file that says the same in TOML' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from remove" -s h -l help -d 'Print help'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from help" -f -a "list" -d 'List key versions and slots; needs no key'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from help" -f -a "add" -d 'Add a slot, so that a further credential opens the volume'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from help" -f -a "remove" -d 'Remove a slot'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand generate" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand help; and not __fish_seen_subcommand_from init mount umount info check key generate help" -f -a "init" -d 'Make an encrypted volume in an empty directory'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand help; and not __fish_seen_subcommand_from init mount umount info check key generate help" -f -a "mount" -d 'Show a volume in plain at a mountpoint'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand help; and not __fish_seen_subcommand_from init mount umount info check key generate help" -f -a "umount" -d 'Unmount a volume and wait until everything is written'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand help; and not __fish_seen_subcommand_from init mount umount info check key generate help" -f -a "info" -d 'Tell what a volume says of itself; needs no key'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand help; and not __fish_seen_subcommand_from init mount umount info check key generate help" -f -a "check" -d 'Verify every header, tree node and chunk of a volume that is not mounted'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand help; and not __fish_seen_subcommand_from init mount umount info check key generate help" -f -a "key" -d 'List, add and remove key slots'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand help; and not __fish_seen_subcommand_from init mount umount info check key generate help" -f -a "generate" -d 'Write man pages or shell completions into a directory'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand help; and not __fish_seen_subcommand_from init mount umount info check key generate help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand help; and __fish_seen_subcommand_from key" -f -a "list" -d 'List key versions and slots; needs no key'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand help; and __fish_seen_subcommand_from key" -f -a "add" -d 'Add a slot, so that a further credential opens the volume'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand help; and __fish_seen_subcommand_from key" -f -a "remove" -d 'Remove a slot'
