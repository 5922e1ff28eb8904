# fish completion of mdcadm; made from tools/table.py by `make generated`.
complete -c mdcadm -l create -d 'make a new array'
complete -c mdcadm -l assemble -d 'start an array that exists'
complete -c mdcadm -l manage -d 'change the members of an array (implied)'
complete -c mdcadm -l grow -d 'change the number of devices, or the size used of each'
complete -c mdcadm -l misc -d 'report on arrays and devices (implied)'
complete -c mdcadm -l monitor -d 'report what happens to arrays'
complete -c mdcadm -l detail -d 'print all about an array'
complete -c mdcadm -l examine -d 'print the superblock on a member'
complete -c mdcadm -l examine-bitmap -d 'print the bitmaps on a member'
complete -c mdcadm -l examine-badblocks -d 'print the bad blocks of a member'
complete -c mdcadm -l query -d 'print in a line what a device has to do with md'
complete -c mdcadm -l wait -d 'wait until nothing is resynced'
complete -c mdcadm -l wait-clean -d 'wait until an array is marked clean'
complete -c mdcadm -l cluster -d 'print writer, term, lease, nodes and links'
complete -c mdcadm -l mdstat -d 'print all arrays in the format of /proc/mdstat'
complete -c mdcadm -l why -d 'print what waits, and for what'
complete -c mdcadm -l events -d 'print what happens, one JSON object a line'
complete -c mdcadm -l watch -d 'show cluster and arrays as they are, until q'
complete -c mdcadm -l history -d 'print what has happened, the oldest first'
complete -c mdcadm -l kinds -d 'only these kinds of events' -r
complete -c mdcadm -l check-timing -d 'print the proof that the timings are safe'
complete -c mdcadm -l stop -d 'stop an array on all nodes'
complete -c mdcadm -l run -d 'start it even if degraded; create it despite oddities'
complete -c mdcadm -l readonly -d 'make an array read-only'
complete -c mdcadm -l readwrite -d 'make an array writable'
complete -c mdcadm -l action -d 'check, repair, or idle to end that' -x -a 'check repair idle'
complete -c mdcadm -l zero-superblock -d 'erase the superblock on a device'
complete -c mdcadm -l reload -d 'read clusterips again'
complete -c mdcadm -l adopt -d 'take a plain md array in - all its active members'
complete -c mdcadm -l release -d 'give an array back - a plain md array again'
complete -c mdcadm -l pause -d 'copy nothing in an array (or in all), let no spare take over'
complete -c mdcadm -l resume -d 'end that - what is due begins'
complete -c mdcadm -l transfer -d 'make NODE the writer' -r
complete -c mdcadm -l fence-ack -d 'vouch that NODE is stopped for certain' -r
complete -c mdcadm -l admit -d 'let NODE vote again after it lost its state' -r
complete -c mdcadm -l fail -d 'mark the devices that follow faulty'
complete -c mdcadm -l remove -d 'take the devices that follow out'
complete -c mdcadm -l add -d 'take the devices that follow in'
complete -c mdcadm -l add-spare -d 'take them in as spares'
complete -c mdcadm -l re-add -d 'take members in again that were out'
complete -c mdcadm -l replace -d 'have a spare take the role of the devices that follow'
complete -c mdcadm -l with -d 'the spares for that, in the same order'
complete -c mdcadm -l level -d 'raid1 or raid10' -x -a 'raid1 raid10'
complete -c mdcadm -l raid-devices -d 'number of active devices' -r
complete -c mdcadm -l spare-devices -d 'number of spares' -r
complete -c mdcadm -l chunk -d 'chunk size of raid10, in KiB or with K, M' -r
complete -c mdcadm -l layout -d 'layout of raid10 - n2' -x -a 'n2'
complete -c mdcadm -l size -d 'how much of each device, in KiB or with K, M, G, T' -r
complete -c mdcadm -l data-offset -d 'where data begins on each device' -r
complete -c mdcadm -l assume-clean -d 'take the members as equal - no first resync'
complete -c mdcadm -l bitmap -d 'internal (default), clustered (the same), or none' -x -a 'internal clustered none'
complete -c mdcadm -l bitmap-chunk -d 'size of what one bit stands for' -r
complete -c mdcadm -l consistency-policy -d 'resync, bitmap, journal or ppl' -x -a 'bitmap'
complete -c mdcadm -l nodes -d 'number of nodes with a bitmap' -r
complete -c mdcadm -l home-cluster -d 'name of the cluster' -r
complete -c mdcadm -l metadata -d 'superblock version - 1.2' -x -a '1.2'
complete -c mdcadm -l name -d 'name of the array' -r
complete -c mdcadm -l uuid -d 'UUID of the array' -r
complete -c mdcadm -l scan -d 'all arrays'
complete -c mdcadm -l config -d 'configuration file' -r
complete -c mdcadm -l daemonise -d 'go on in the background'
complete -c mdcadm -l force -d 'override what is refused for safety'
complete -c mdcadm -l no-degraded -d 'do not start what is degraded'
complete -c mdcadm -l auto -d 'create device nodes' -x -a 'check repair idle'
complete -c mdcadm -l symlinks -d 'create links to device nodes' -x -a 'check repair idle'
complete -c mdcadm -l path -d 'where a device was that is gone' -r
complete -c mdcadm -l test -d 'exit code tells the state of the array'
complete -c mdcadm -l mail -d 'whom to tell' -r
complete -c mdcadm -l program -d 'what to run at each event' -r
complete -c mdcadm -l increment -d 'percents between two RebuildNN events' -r
complete -c mdcadm -l delay -d 'seconds between two looks' -r
complete -c mdcadm -l oneshot -d 'look once, then end'
complete -c mdcadm -l pid-file -d 'where to write the process id' -r
complete -c mdcadm -l syslog -d 'tell syslog'
complete -c mdcadm -l everywhere -d 'each nodes monitor sends its alerts, not only the writers'
complete -c mdcadm -l no-sharing -d 'do not move spares between arrays'
complete -c mdcadm -l brief -d 'ARRAY lines only'
complete -c mdcadm -l export -d 'KEY=value lines'
complete -c mdcadm -l no-devices -d 'no devices= in ARRAY lines'
complete -c mdcadm -l prefer -d 'kind of device names to print, as by-id' -x -a 'check repair idle'
complete -c mdcadm -l homehost -d 'host that a new arrays name begins with' -r
complete -c mdcadm -l offroot -d 'nothing'
complete -c mdcadm -l json -d 'one JSON document'
complete -c mdcadm -l dry-run -d 'say what a change would do on which node, and change nothing'
complete -c mdcadm -l verbose -d 'say more'
complete -c mdcadm -l quiet -d 'say less'
complete -c mdcadm -l socket -d 'control socket of the daemon' -r
complete -c mdcadm -l help -d 'this text, or with a mode before it, of that mode'
complete -c mdcadm -l help-options -d 'all options'
complete -c mdcadm -l version -d 'print the version'
