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
complete -c envelopefs -n "__fish_envelopefs_needs_command" -f -a "takeover" -d 'Take a volume over from another instance, whose key server slots become this one\'s'
complete -c envelopefs -n "__fish_envelopefs_needs_command" -f -a "check-server-key" -d 'Compare the signing key that key servers tell with the pinned one'
complete -c envelopefs -n "__fish_envelopefs_needs_command" -f -a "import" -d 'Bring a plaintext directory or file into a volume that is not mounted, and compare'
complete -c envelopefs -n "__fish_envelopefs_needs_command" -f -a "audit" -d 'Show or verify the log of what was done with a volume\'s keys'
complete -c envelopefs -n "__fish_envelopefs_needs_command" -f -a "recover" -d 'Open a volume with its recovery key, or enough shares of it, and add a key slot'
complete -c envelopefs -n "__fish_envelopefs_needs_command" -f -a "attest" -d 'Fetch an attestation report of this SEV-SNP guest, or read one, and verify it'
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
complete -c envelopefs -n "__fish_envelopefs_using_subcommand init" -l insecure-no-recovery-slot -d 'Make do with key slots that this machine alone can open (sev-snp): its loss is then the loss of the data'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand init" -s h -l help -d 'Print help'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand mount" -l key-file -d 'File with the 32 bytes of a key; only its owner may have rights to it' -r -F
complete -c envelopefs -n "__fish_envelopefs_using_subcommand mount" -l passphrase-file -d 'File with a passphrase; one line ending at its end is not part of it' -r -F
complete -c envelopefs -n "__fish_envelopefs_using_subcommand mount" -l passphrase-fd -d 'Read a passphrase from this open file descriptor up to its end' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand mount" -l provider -d 'A key provider, as kind:target?name=value&name=value, or the path of a file that says the same in TOML' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand mount" -s o -d 'Mount options, comma-separated: ro, rw, allow_other, allow_root, default_permissions, exec, noexec, suid, nosuid, dev, nodev, atime, noatime, sync, async, dirsync, nonempty, key_file=PATH, passphrase_file=PATH, provider=SPEC, volume_id=UUID, threads=N, lease=SECONDS, log_file=PATH, journal_size=MiB, busy_poll=MICROSECONDS.' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand mount" -l volume-id -d 'Refuse any volume but this one' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand mount" -l log-file -d 'Append messages to this file instead of sending them to the system log' -r -F
complete -c envelopefs -n "__fish_envelopefs_using_subcommand mount" -l lease -d 'Open the key slot again every so many seconds; once it is refused, drop the keys: every access then fails with ENOKEY' -r
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
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and not __fish_seen_subcommand_from list add remove rotate status retire destroy rebind probe help" -s h -l help -d 'Print help'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and not __fish_seen_subcommand_from list add remove rotate status retire destroy rebind probe help" -f -a "list" -d 'List key versions and slots; needs no key'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and not __fish_seen_subcommand_from list add remove rotate status retire destroy rebind probe help" -f -a "add" -d 'Add a slot, so that a further credential opens the volume'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and not __fish_seen_subcommand_from list add remove rotate status retire destroy rebind probe help" -f -a "remove" -d 'Remove a slot'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and not __fish_seen_subcommand_from list add remove rotate status retire destroy rebind probe help" -f -a "rotate" -d 'Put a new master key in force and rewrap every header, mounted or not; no data is encrypted anew'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and not __fish_seen_subcommand_from list add remove rotate status retire destroy rebind probe help" -f -a "status" -d 'Count headers by the version of the master key that they need'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and not __fish_seen_subcommand_from list add remove rotate status retire destroy rebind probe help" -f -a "retire" -d 'Make sure that no header needs a version, and note it: its grace period begins'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and not __fish_seen_subcommand_from list add remove rotate status retire destroy rebind probe help" -f -a "destroy" -d 'Destroy a version that no header needs'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and not __fish_seen_subcommand_from list add remove rotate status retire destroy rebind probe help" -f -a "rebind" -d 'Wrap a slot anew by another credential, or by the same provider in another state, under its number'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and not __fish_seen_subcommand_from list add remove rotate status retire destroy rebind probe help" -f -a "probe" -d 'Ask key providers what they are, and test them: wrap, unwrap, expect refusals; needs no volume'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and not __fish_seen_subcommand_from list add remove rotate status retire destroy rebind probe help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from list" -l json -d 'Print one JSON object instead of text'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from list" -s h -l help -d 'Print help'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from add" -l key-file -d 'File with the 32 bytes of a key; only its owner may have rights to it' -r -F
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from add" -l passphrase-file -d 'File with a passphrase; one line ending at its end is not part of it' -r -F
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from add" -l passphrase-fd -d 'Read a passphrase from this open file descriptor up to its end' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from add" -l provider -d 'A key provider, as kind:target?name=value&name=value, or the path of a file that says the same in TOML' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from add" -l new-key-file -d 'File with the 32 bytes of a key' -r -F
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from add" -l new-passphrase-file -d 'File with a passphrase' -r -F
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from add" -l new-passphrase-fd -d 'Read a passphrase from this file descriptor' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from add" -l new-provider -d 'A key provider, as --provider names it' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from add" -l label -d 'A name for the new slot, for people' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from add" -l argon2-memory -d 'Memory in MiB' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from add" -l argon2-passes -d 'Passes over the memory' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from add" -l argon2-lanes -d 'Lanes (threads)' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from add" -l shares -d 'Split it into so many shares, 2 to 255' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from add" -l threshold -d 'So many of the shares are needed, 2 to all' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from add" -l output-dir -d 'Write it into files in this directory, one for each share and readable by their owner alone, instead of showing it' -r -F
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from add" -l volume-id -d 'Refuse any volume but this one' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from add" -l make-key-file -d 'Make the key file named by --new-key-file; it must not exist yet'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from add" -l insecure-no-recovery-slot -d 'Make do with key slots that this machine alone can open (sev-snp): its loss is then the loss of the data'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from add" -l new-recovery -d 'Make a recovery key, to be printed and kept: it opens the volume when all else is lost'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from add" -l words -d 'Words of a list instead of groups of letters and digits'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from add" -l yes -d 'Do not ask whether it was written down'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from add" -l dry-run -d 'Open the volume and the new credential, and change nothing'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from add" -l json -d 'Print one JSON object instead of text'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from add" -s h -l help -d 'Print help'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from remove" -l key-file -d 'File with the 32 bytes of a key; only its owner may have rights to it' -r -F
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from remove" -l passphrase-file -d 'File with a passphrase; one line ending at its end is not part of it' -r -F
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from remove" -l passphrase-fd -d 'Read a passphrase from this open file descriptor up to its end' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from remove" -l provider -d 'A key provider, as kind:target?name=value&name=value, or the path of a file that says the same in TOML' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from remove" -l volume-id -d 'Refuse any volume but this one' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from remove" -l dry-run -d 'Change nothing'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from remove" -l json -d 'Print one JSON object instead of text'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from remove" -s h -l help -d 'Print help'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from rotate" -l key-file -d 'File with the 32 bytes of a key; only its owner may have rights to it' -r -F
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from rotate" -l passphrase-file -d 'File with a passphrase; one line ending at its end is not part of it' -r -F
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from rotate" -l passphrase-fd -d 'Read a passphrase from this open file descriptor up to its end' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from rotate" -l provider -d 'A key provider, as kind:target?name=value&name=value, or the path of a file that says the same in TOML' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from rotate" -l volume-id -d 'Refuse any volume but this one' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from rotate" -l threads -d 'Threads that work on headers; by default one for each processor' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from rotate" -l rate -d 'At most so many headers a second' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from rotate" -l resume -d 'Make no new version: finish a rotation that was interrupted'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from rotate" -l leave-slots-behind -d 'Go on although the new version will not have the slots that no credential was given for'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from rotate" -l insecure-no-recovery-slot -d 'Leave them behind even if all that go along are bound to this machine'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from rotate" -l dry-run -d 'Count, and change nothing'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from rotate" -s q -l quiet -d 'No progress'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from rotate" -l json -d 'Print one JSON object instead of text'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from rotate" -s h -l help -d 'Print help'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from status" -l key-file -d 'File with the 32 bytes of a key; only its owner may have rights to it' -r -F
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from status" -l passphrase-file -d 'File with a passphrase; one line ending at its end is not part of it' -r -F
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from status" -l passphrase-fd -d 'Read a passphrase from this open file descriptor up to its end' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from status" -l provider -d 'A key provider, as kind:target?name=value&name=value, or the path of a file that says the same in TOML' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from status" -l volume-id -d 'Refuse any volume but this one' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from status" -l threads -d 'Threads that work on headers; by default one for each processor' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from status" -l rate -d 'At most so many headers a second' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from status" -s q -l quiet -d 'No progress'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from status" -l json -d 'Print one JSON object instead of text'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from status" -s h -l help -d 'Print help'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from retire" -l key-file -d 'File with the 32 bytes of a key; only its owner may have rights to it' -r -F
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from retire" -l passphrase-file -d 'File with a passphrase; one line ending at its end is not part of it' -r -F
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from retire" -l passphrase-fd -d 'Read a passphrase from this open file descriptor up to its end' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from retire" -l provider -d 'A key provider, as kind:target?name=value&name=value, or the path of a file that says the same in TOML' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from retire" -l volume-id -d 'Refuse any volume but this one' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from retire" -l threads -d 'Threads that work on headers; by default one for each processor' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from retire" -l rate -d 'At most so many headers a second' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from retire" -l compromised -d 'Note as well that others know this master key, even if headers still need it'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from retire" -l dry-run -d 'Count, and change nothing'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from retire" -s q -l quiet -d 'No progress'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from retire" -l json -d 'Print one JSON object instead of text'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from retire" -s h -l help -d 'Print help'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from destroy" -l key-file -d 'File with the 32 bytes of a key; only its owner may have rights to it' -r -F
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from destroy" -l passphrase-file -d 'File with a passphrase; one line ending at its end is not part of it' -r -F
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from destroy" -l passphrase-fd -d 'Read a passphrase from this open file descriptor up to its end' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from destroy" -l provider -d 'A key provider, as kind:target?name=value&name=value, or the path of a file that says the same in TOML' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from destroy" -l volume-id -d 'Refuse any volume but this one' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from destroy" -l grace-days -d 'Days that must have passed since the version was retired' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from destroy" -l threads -d 'Threads that work on headers; by default one for each processor' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from destroy" -l rate -d 'At most so many headers a second' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from destroy" -l lose-data -d 'Destroy it although headers need it (crypto-shredding): the files that are named cannot be read any more, ever'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from destroy" -l dry-run -d 'Count and name what would be lost, and change nothing'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from destroy" -s q -l quiet -d 'No progress'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from destroy" -l json -d 'Print one JSON object instead of text'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from destroy" -s h -l help -d 'Print help'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from rebind" -l key-file -d 'File with the 32 bytes of a key; only its owner may have rights to it' -r -F
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from rebind" -l passphrase-file -d 'File with a passphrase; one line ending at its end is not part of it' -r -F
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from rebind" -l passphrase-fd -d 'Read a passphrase from this open file descriptor up to its end' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from rebind" -l provider -d 'A key provider, as kind:target?name=value&name=value, or the path of a file that says the same in TOML' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from rebind" -l volume-id -d 'Refuse any volume but this one' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from rebind" -l new-key-file -d 'File with the 32 bytes of a key' -r -F
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from rebind" -l new-passphrase-file -d 'File with a passphrase' -r -F
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from rebind" -l new-passphrase-fd -d 'Read a passphrase from this file descriptor' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from rebind" -l new-provider -d 'A key provider, as --provider names it' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from rebind" -l label -d 'A name for the new slot, for people' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from rebind" -l argon2-memory -d 'Memory in MiB' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from rebind" -l argon2-passes -d 'Passes over the memory' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from rebind" -l argon2-lanes -d 'Lanes (threads)' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from rebind" -l make-key-file -d 'Make the key file named by --new-key-file; it must not exist yet'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from rebind" -l insecure-no-recovery-slot -d 'Make do with key slots that this machine alone can open (sev-snp): its loss is then the loss of the data'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from rebind" -l dry-run -d 'Change nothing'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from rebind" -l json -d 'Print one JSON object instead of text'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from rebind" -s h -l help -d 'Print help'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from probe" -l key-file -d 'File with the 32 bytes of a key; only its owner may have rights to it' -r -F
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from probe" -l passphrase-file -d 'File with a passphrase; one line ending at its end is not part of it' -r -F
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from probe" -l passphrase-fd -d 'Read a passphrase from this open file descriptor up to its end' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from probe" -l provider -d 'A key provider, as kind:target?name=value&name=value, or the path of a file that says the same in TOML' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from probe" -l json -d 'Print one JSON object instead of text'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from probe" -s h -l help -d 'Print help'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from help" -f -a "list" -d 'List key versions and slots; needs no key'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from help" -f -a "add" -d 'Add a slot, so that a further credential opens the volume'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from help" -f -a "remove" -d 'Remove a slot'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from help" -f -a "rotate" -d 'Put a new master key in force and rewrap every header, mounted or not; no data is encrypted anew'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from help" -f -a "status" -d 'Count headers by the version of the master key that they need'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from help" -f -a "retire" -d 'Make sure that no header needs a version, and note it: its grace period begins'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from help" -f -a "destroy" -d 'Destroy a version that no header needs'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from help" -f -a "rebind" -d 'Wrap a slot anew by another credential, or by the same provider in another state, under its number'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from help" -f -a "probe" -d 'Ask key providers what they are, and test them: wrap, unwrap, expect refusals; needs no volume'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand key; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand takeover" -l from -d 'Instance id of the owner until now' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand takeover" -l provider -d 'The key server, as the instance that takes over: hsm-api:https://…' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand takeover" -l volume-id -d 'Refuse any volume but this one' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand takeover" -l dry-run -d 'Change nothing in the volume. The server is asked all the same, and writes it into its audit log'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand takeover" -l json -d 'Print one JSON object instead of text'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand takeover" -s h -l help -d 'Print help'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand check-server-key" -l provider -d 'The key servers: hsm-api:https://…' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand check-server-key" -l json -d 'Print one JSON object instead of text'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand check-server-key" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand import" -l key-file -d 'File with the 32 bytes of a key; only its owner may have rights to it' -r -F
complete -c envelopefs -n "__fish_envelopefs_using_subcommand import" -l passphrase-file -d 'File with a passphrase; one line ending at its end is not part of it' -r -F
complete -c envelopefs -n "__fish_envelopefs_using_subcommand import" -l passphrase-fd -d 'Read a passphrase from this open file descriptor up to its end' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand import" -l provider -d 'A key provider, as kind:target?name=value&name=value, or the path of a file that says the same in TOML' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand import" -l volume-id -d 'Refuse any volume but this one' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand import" -l into -d 'The directory of the volume that it goes into; made if need be' -r -F
complete -c envelopefs -n "__fish_envelopefs_using_subcommand import" -l overwrite -d 'Replace what is in the volume already and differs'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand import" -l remove-originals -d 'Remove the originals when all of them were found equal and are on the disk. What the disk held of them may stay on it'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand import" -l dry-run -d 'Say what would be copied, and change nothing'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand import" -l json -d 'Print one JSON object instead of text'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand import" -s q -l quiet -d 'No progress bar'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand import" -s h -l help -d 'Print help'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand audit; and not __fish_seen_subcommand_from verify show help" -s h -l help -d 'Print help'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand audit; and not __fish_seen_subcommand_from verify show help" -f -a "verify" -d 'Verify the log\'s chain and MACs, and name the first fault'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand audit; and not __fish_seen_subcommand_from verify show help" -f -a "show" -d 'List the events; their chain is verified on the way, their MACs are not'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand audit; and not __fish_seen_subcommand_from verify show help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand audit; and __fish_seen_subcommand_from verify" -l key-file -d 'File with the 32 bytes of a key; only its owner may have rights to it' -r -F
complete -c envelopefs -n "__fish_envelopefs_using_subcommand audit; and __fish_seen_subcommand_from verify" -l passphrase-file -d 'File with a passphrase; one line ending at its end is not part of it' -r -F
complete -c envelopefs -n "__fish_envelopefs_using_subcommand audit; and __fish_seen_subcommand_from verify" -l passphrase-fd -d 'Read a passphrase from this open file descriptor up to its end' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand audit; and __fish_seen_subcommand_from verify" -l provider -d 'A key provider, as kind:target?name=value&name=value, or the path of a file that says the same in TOML' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand audit; and __fish_seen_subcommand_from verify" -l volume-id -d 'Refuse any volume but this one' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand audit; and __fish_seen_subcommand_from verify" -l head -d 'The head that an earlier verification printed, kept elsewhere: the log must still contain that event' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand audit; and __fish_seen_subcommand_from verify" -l chain-only -d 'Verify the chain alone, without a credential: who can write to the backing directory can make one that fits'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand audit; and __fish_seen_subcommand_from verify" -l json -d 'Print one JSON object instead of text'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand audit; and __fish_seen_subcommand_from verify" -s h -l help -d 'Print help'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand audit; and __fish_seen_subcommand_from show" -l json -d 'Print the lines as they are, JSON objects'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand audit; and __fish_seen_subcommand_from show" -s h -l help -d 'Print help'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand audit; and __fish_seen_subcommand_from help" -f -a "verify" -d 'Verify the log\'s chain and MACs, and name the first fault'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand audit; and __fish_seen_subcommand_from help" -f -a "show" -d 'List the events; their chain is verified on the way, their MACs are not'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand audit; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand recover" -l recovery-file -d 'File with the recovery key or with shares of it; only its owner may have rights to it. Without any, they are asked for on the terminal' -r -F
complete -c envelopefs -n "__fish_envelopefs_using_subcommand recover" -l recovery-fd -d 'Read the recovery key or the shares, an empty line between two, from this open file descriptor' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand recover" -l volume-id -d 'Refuse any volume but this one' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand recover" -l new-key-file -d 'File with the 32 bytes of a key' -r -F
complete -c envelopefs -n "__fish_envelopefs_using_subcommand recover" -l new-passphrase-file -d 'File with a passphrase' -r -F
complete -c envelopefs -n "__fish_envelopefs_using_subcommand recover" -l new-passphrase-fd -d 'Read a passphrase from this file descriptor' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand recover" -l new-provider -d 'A key provider, as --provider names it' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand recover" -l label -d 'A name for the new slot, for people' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand recover" -l argon2-memory -d 'Memory in MiB' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand recover" -l argon2-passes -d 'Passes over the memory' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand recover" -l argon2-lanes -d 'Lanes (threads)' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand recover" -l shares -d 'Split it into so many shares, 2 to 255' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand recover" -l threshold -d 'So many of the shares are needed, 2 to all' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand recover" -l output-dir -d 'Write it into files in this directory, one for each share and readable by their owner alone, instead of showing it' -r -F
complete -c envelopefs -n "__fish_envelopefs_using_subcommand recover" -l make-key-file -d 'Make the key file named by --new-key-file; it must not exist yet'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand recover" -l insecure-no-recovery-slot -d 'Make do with key slots that this machine alone can open (sev-snp): its loss is then the loss of the data'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand recover" -l new-recovery -d 'Make a recovery key, to be printed and kept: it opens the volume when all else is lost'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand recover" -l words -d 'Words of a list instead of groups of letters and digits'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand recover" -l yes -d 'Do not ask whether it was written down'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand recover" -l dry-run -d 'Only see whether the recovery key opens the volume'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand recover" -l json -d 'Print one JSON object instead of text'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand recover" -s h -l help -d 'Print help'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand attest" -l report -d 'Read the report from a file instead of asking this guest\'s secure processor' -r -F
complete -c envelopefs -n "__fish_envelopefs_using_subcommand attest" -l nonce -d 'What the report must hold as report data, 64 bytes; without it a report that is asked for holds random bytes, and of one from a file it stays open how old it is' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand attest" -l output -d 'Write the report to this file before it is verified' -r -F
complete -c envelopefs -n "__fish_envelopefs_using_subcommand attest" -l at -d 'Verify as of this time instead of now' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand attest" -l vek -l vcek -d 'Certificate of the signing key (VCEK or VLEK), in DER or PEM; others in the same file may be its chain' -r -F
complete -c envelopefs -n "__fish_envelopefs_using_subcommand attest" -l cert-chain -d 'Certificates of its authorities (ASK or ASVK, and ARK); for a VCEK AMD\'s are compiled in' -r -F
complete -c envelopefs -n "__fish_envelopefs_using_subcommand attest" -l cert-dir -d 'Directory with vcek/CHIP/TCB_vcek.der and, if need be, cert_chain.pem' -r -F
complete -c envelopefs -n "__fish_envelopefs_using_subcommand attest" -l kds -d 'Another server to fetch from, a mirror say' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand attest" -l kds-ca-file -d 'PEM certificates of the authorities that are trusted for that connection, instead of the system\'s' -r -F
complete -c envelopefs -n "__fish_envelopefs_using_subcommand attest" -l cert-table -d 'Table of certificates as the host hands it out, auxblob of configfs-tsm' -r -F
complete -c envelopefs -n "__fish_envelopefs_using_subcommand attest" -l crl -d 'Revocation list in DER. With any, one of them must be the root\'s and in force, and none may name a certificate of the chain' -r -F
complete -c envelopefs -n "__fish_envelopefs_using_subcommand attest" -l measurement -d 'Launch measurement that is allowed; with several, one of them' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand attest" -l author-key -d 'Digest of the author key of the ID block that is allowed; with several, one of them' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand attest" -l minimum-guest-svn -d 'Least security version of the guest' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand attest" -l host-data -d 'HOST_DATA' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand attest" -l vmpl -d 'Privilege level' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand attest" -l minimum-tcb -d 'Least firmware versions, reported, committed and at launch: bootloader=3,snp=8,microcode=115' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand attest" -l policy-set -d 'Bits that the guest\'s policy must have' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand attest" -l policy-clear -d 'Bits that it must not have' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand attest" -l platform-set -d 'Bits that the description of the platform must have' -r
complete -c envelopefs -n "__fish_envelopefs_using_subcommand attest" -l json -d 'Print one JSON object instead of text'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand attest" -l fetch -d 'Fetch the VCEK\'s certificate from AMD\'s key distribution server if the directory does not have it, and keep it there. The server learns which chip it is for'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand attest" -l allow-debug -d 'Accept a guest that its host may debug'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand attest" -l allow-migration -d 'Accept a guest that a migration agent may move'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand attest" -l allow-vlek -d 'Accept a cloud provider\'s key (VLEK)'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand attest" -l allow-version-2 -d 'Accept reports of version 2, which do not say which generation of processor they are from'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand attest" -s h -l help -d 'Print help'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand generate" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand help; and not __fish_seen_subcommand_from init mount umount info check key takeover check-server-key import audit recover attest generate help" -f -a "init" -d 'Make an encrypted volume in an empty directory'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand help; and not __fish_seen_subcommand_from init mount umount info check key takeover check-server-key import audit recover attest generate help" -f -a "mount" -d 'Show a volume in plain at a mountpoint'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand help; and not __fish_seen_subcommand_from init mount umount info check key takeover check-server-key import audit recover attest generate help" -f -a "umount" -d 'Unmount a volume and wait until everything is written'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand help; and not __fish_seen_subcommand_from init mount umount info check key takeover check-server-key import audit recover attest generate help" -f -a "info" -d 'Tell what a volume says of itself; needs no key'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand help; and not __fish_seen_subcommand_from init mount umount info check key takeover check-server-key import audit recover attest generate help" -f -a "check" -d 'Verify every header, tree node and chunk of a volume that is not mounted'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand help; and not __fish_seen_subcommand_from init mount umount info check key takeover check-server-key import audit recover attest generate help" -f -a "key" -d 'List, add and remove key slots'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand help; and not __fish_seen_subcommand_from init mount umount info check key takeover check-server-key import audit recover attest generate help" -f -a "takeover" -d 'Take a volume over from another instance, whose key server slots become this one\'s'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand help; and not __fish_seen_subcommand_from init mount umount info check key takeover check-server-key import audit recover attest generate help" -f -a "check-server-key" -d 'Compare the signing key that key servers tell with the pinned one'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand help; and not __fish_seen_subcommand_from init mount umount info check key takeover check-server-key import audit recover attest generate help" -f -a "import" -d 'Bring a plaintext directory or file into a volume that is not mounted, and compare'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand help; and not __fish_seen_subcommand_from init mount umount info check key takeover check-server-key import audit recover attest generate help" -f -a "audit" -d 'Show or verify the log of what was done with a volume\'s keys'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand help; and not __fish_seen_subcommand_from init mount umount info check key takeover check-server-key import audit recover attest generate help" -f -a "recover" -d 'Open a volume with its recovery key, or enough shares of it, and add a key slot'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand help; and not __fish_seen_subcommand_from init mount umount info check key takeover check-server-key import audit recover attest generate help" -f -a "attest" -d 'Fetch an attestation report of this SEV-SNP guest, or read one, and verify it'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand help; and not __fish_seen_subcommand_from init mount umount info check key takeover check-server-key import audit recover attest generate help" -f -a "generate" -d 'Write man pages or shell completions into a directory'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand help; and not __fish_seen_subcommand_from init mount umount info check key takeover check-server-key import audit recover attest generate help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand help; and __fish_seen_subcommand_from key" -f -a "list" -d 'List key versions and slots; needs no key'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand help; and __fish_seen_subcommand_from key" -f -a "add" -d 'Add a slot, so that a further credential opens the volume'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand help; and __fish_seen_subcommand_from key" -f -a "remove" -d 'Remove a slot'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand help; and __fish_seen_subcommand_from key" -f -a "rotate" -d 'Put a new master key in force and rewrap every header, mounted or not; no data is encrypted anew'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand help; and __fish_seen_subcommand_from key" -f -a "status" -d 'Count headers by the version of the master key that they need'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand help; and __fish_seen_subcommand_from key" -f -a "retire" -d 'Make sure that no header needs a version, and note it: its grace period begins'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand help; and __fish_seen_subcommand_from key" -f -a "destroy" -d 'Destroy a version that no header needs'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand help; and __fish_seen_subcommand_from key" -f -a "rebind" -d 'Wrap a slot anew by another credential, or by the same provider in another state, under its number'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand help; and __fish_seen_subcommand_from key" -f -a "probe" -d 'Ask key providers what they are, and test them: wrap, unwrap, expect refusals; needs no volume'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand help; and __fish_seen_subcommand_from audit" -f -a "verify" -d 'Verify the log\'s chain and MACs, and name the first fault'
complete -c envelopefs -n "__fish_envelopefs_using_subcommand help; and __fish_seen_subcommand_from audit" -f -a "show" -d 'List the events; their chain is verified on the way, their MACs are not'
