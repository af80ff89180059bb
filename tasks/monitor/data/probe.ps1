# The questions stand above this text as $nonce, $digest and $asked (JSON in base64); tasks/monitor/probe.py writes them.
# The answer has the form of probe.sh, so that one reader serves both. Nothing is written to a disk.

$ErrorActionPreference = 'SilentlyContinue'
$ProgressPreference = 'SilentlyContinue'
$WarningPreference = 'SilentlyContinue'
[Threading.Thread]::CurrentThread.CurrentCulture = [Globalization.CultureInfo]::InvariantCulture
$utf8 = New-Object Text.UTF8Encoding($false)
$out = New-Object IO.StreamWriter([Console]::OpenStandardOutput(), $utf8)
$out.AutoFlush = $true
$ask = ConvertFrom-Json ([Text.Encoding]::UTF8.GetString([Convert]::FromBase64String($asked)))
$epoch = New-Object DateTime(1970, 1, 1, 0, 0, 0, [DateTimeKind]::Utc)
$watch = [Diagnostics.Stopwatch]::StartNew()

# A line end of our own: Windows writes two characters.
function Say([string]$line) { $out.Write($line + "`n") }
function Seconds([DateTime]$moment) { ($moment.ToUniversalTime() - $epoch).TotalSeconds }
function Instant { '{0:F6}' -f (Seconds ([DateTime]::UtcNow)) }
function Escape([string]$name) { $name.Replace('\', '\134').Replace(' ', '\040') }

# What failed says so, and the section after it is asked all the same.
function Section([string]$name, [scriptblock]$what) {
    Say "$nonce section $name"
    if ($watch.Elapsed.TotalSeconds -ge $ask.seconds) { Say 'late' }
    else { try { & $what } catch { Say "missing $name" } }
    Say "$nonce end $name"
}

# CIM calls can hang with the service behind them, so each has a limit of its own.
function Ask([string]$class, [string]$filter, [string]$space = 'root/cimv2') {
    $words = @{ ClassName = $class; Namespace = $space; OperationTimeoutSec = 5; ErrorAction = 'Stop' }
    if ($filter) { $words.Filter = $filter }
    Get-CimInstance @words
}

# Names stay here: a file's name can be a patient's.
function CountFiles([string]$label, [string]$folder, [int]$depth, [int]$seconds) {
    if (-not [IO.Directory]::Exists($folder)) { Say "inbox $label absent"; return }
    $clock = [Diagnostics.Stopwatch]::StartNew()
    $count = 0; $ahead = 0; $newest = -1; $oldest = -1; $code = 0
    $future = $started + 300
    $waiting = New-Object Collections.Generic.Stack[object]
    $waiting.Push(@((New-Object IO.DirectoryInfo $folder), 1))
    while ($waiting.Count -and $code -ne 137) {
        $here, $level = $waiting.Pop()
        try {
            foreach ($entry in $here.EnumerateFileSystemInfos()) {
                if ($clock.Elapsed.TotalSeconds -ge $seconds) { $code = 137; break }
                # A link can lead anywhere, also back.
                if ($entry.Attributes -band [IO.FileAttributes]::ReparsePoint) { continue }
                if ($entry.Attributes -band [IO.FileAttributes]::Directory) {
                    if ($level -lt $depth) { $waiting.Push(@($entry, ($level + 1))) }
                    continue
                }
                $count++
                $written = [Math]::Floor((Seconds $entry.LastWriteTimeUtc))
                if ($written -gt $future) { $ahead++; continue }
                if ($newest -eq -1 -or $written -gt $newest) { $newest = $written }
                if ($oldest -eq -1 -or $written -lt $oldest) { $oldest = $written }
            }
        } catch {
            if ($level -eq 1) { Say "inbox $label unreadable"; return }
            $code = 1
        }
    }
    Say "inbox $label counted $count $newest $oldest $ahead $code"
}

function AskCertificate([int]$number, [string]$path) {
    if (-not [IO.File]::Exists($path)) { Say "certificate $number absent"; return }
    try {
        $certificate = New-Object Security.Cryptography.X509Certificates.X509Certificate2 $path
        Say ('certificate {0} until epoch {1:F0}' -f $number, (Seconds $certificate.NotAfter))
    } catch { Say "certificate $number unreadable" }
}

# The command runs in a shell of its own; its output is read as it comes, or a full pipe would hold it for ever.
function AskExtra([int]$number, [string]$command, [int]$seconds) {
    $start = New-Object Diagnostics.ProcessStartInfo
    $start.FileName = 'powershell'
    $text = "[Console]::OutputEncoding = New-Object Text.UTF8Encoding(`$false); $command; exit `$LASTEXITCODE"
    $code64 = [Convert]::ToBase64String([Text.Encoding]::Unicode.GetBytes($text))
    $start.Arguments = "-NoProfile -NonInteractive -EncodedCommand $code64"
    $start.UseShellExecute = $false
    $start.RedirectStandardOutput = $true
    $start.RedirectStandardInput = $true
    $start.StandardOutputEncoding = $utf8
    $child = [Diagnostics.Process]::Start($start)
    $child.StandardInput.Close()
    $first = $child.StandardOutput.ReadLineAsync()
    if (-not $first.Wait($seconds * 1000)) { taskkill /T /F /PID $child.Id *> $null; Say "late extra $number"; return }
    $rest = $child.StandardOutput.BaseStream.CopyToAsync([IO.Stream]::Null)
    if (-not $child.WaitForExit($seconds * 1000)) { taskkill /T /F /PID $child.Id *> $null; Say "late extra $number"; return }
    $line = [string]$first.Result
    if ($line.Length -gt 300) { $line = $line.Substring(0, 300) }
    Say "extra $number $($child.ExitCode) $line"
}

Say "$nonce scanward 1 $digest $(Instant)"
$started = [Math]::Floor((Seconds ([DateTime]::UtcNow)))

Section 'system' {
    $system = Ask 'Win32_OperatingSystem'
    Say "uname Windows $($system.Version) $env:PROCESSOR_ARCHITECTURE"
    Say "windows $($system.Caption)"
    Say ('uptime {0:F0}' -f ((Seconds ([DateTime]::UtcNow)) - (Seconds $system.LastBootUpTime)))
    $keys = 'HKLM:\SOFTWARE\Microsoft\Windows\CurrentVersion\Component Based Servicing\RebootPending',
        'HKLM:\SOFTWARE\Microsoft\Windows\CurrentVersion\WindowsUpdate\Auto Update\RebootRequired'
    if (@($keys | Where-Object { Test-Path $_ }).Count) { Say 'reboot-required yes' } else { Say 'reboot-required no' }
}
Section 'load' {
    $cores = (Ask 'Win32_ComputerSystem').NumberOfLogicalProcessors
    Say "cores $cores"
}
Section 'memory' {
    $system = Ask 'Win32_OperatingSystem'
    Say "MemTotal: $($system.TotalVisibleMemorySize) kB"
    Say "MemAvailable: $($system.FreePhysicalMemory) kB"
    Say "SwapTotal: $($system.SizeStoredInPagingFiles) kB"
    Say "SwapFree: $($system.FreeSpaceInPagingFiles) kB"
}
Section 'fstab' { }
Section 'mounts' {
    $number = 0
    # 2 removable, 3 local: a network drive belongs to a session at the screen and is not there in this one.
    foreach ($volume in (Ask 'Win32_Volume' 'DriveType = 3 or DriveType = 2')) {
        $point = [string]$volume.Name
        if (-not $volume.Capacity -or ($point -like '\\?\*')) { continue }
        if ($ask.mounts.Count -and -not (@($ask.mounts) -contains $point)) { continue }
        $mode = 'rw'
        if ($volume.Access -eq 1) { $mode = 'ro' }
        $type = 'unknown'
        if ($volume.FileSystem) { $type = $volume.FileSystem.ToLowerInvariant() }
        Say "mount $number $(Escape $volume.DeviceID) $mode $type $(Escape $point)"
        Say "value $number 1 $($volume.Capacity) $($volume.FreeSpace) $($volume.FreeSpace) 0 0"
        $number++
    }
}
Section 'jobs' {
    for ($i = 0; $i -lt $ask.inboxes.Count; $i++) {
        $box = $ask.inboxes[$i]
        CountFiles "$i" $box.folder $box.depth $box.seconds
        if ($box.failed) { CountFiles "f$i" $box.failed $box.depth $box.seconds }
    }
    for ($i = 0; $i -lt $ask.certificates.Count; $i++) { AskCertificate $i $ask.certificates[$i] }
    for ($i = 0; $i -lt $ask.extras.Count; $i++) { AskExtra $i $ask.extras[$i].command $ask.extras[$i].seconds }
}
Section 'time_sync' {
    if ((Get-Service w32time).Status -ne 'Running') { Say 'w32tm stopped' }
    else {
        # The words are in the language of the machine; the leap indicator's figure before the bracket is not.
        $status = [string](@(w32tm /query /status | Where-Object { $_ })[0])
        if ($status -match '([0-3])\(') { Say "w32tm leap $($Matches[1])" }
    }
}
Section 'raid' {
    foreach ($disk in (Ask 'MSFT_PhysicalDisk' '' 'root/Microsoft/Windows/Storage')) {
        Say "disk $($disk.HealthStatus) disk $($disk.DeviceId)"
    }
}
Section 'ports' {
    foreach ($end in [Net.NetworkInformation.IPGlobalProperties]::GetIPGlobalProperties().GetActiveTcpListeners()) {
        Say "listen $($end.Address) $($end.Port)"
    }
}
Section 'processes' {
    $lines = @(Ask 'Win32_Process' | ForEach-Object { "$($_.Name) $($_.CommandLine)" })
    for ($i = 0; $i -lt $ask.processes.Count; $i++) {
        $text = $ask.processes[$i]
        Say "process $i $(@($lines | Where-Object { $_.Contains($text) }).Count)"
    }
}
Section 'services' {
    for ($i = 0; $i -lt $ask.services.Count; $i++) {
        Say "service $i"
        $service = Get-Service -Name ([Management.Automation.WildcardPattern]::Escape($ask.services[$i]))
        if ($service) { Say "windows $($service.Status) $($service.StartType)" } else { Say 'windows not-found' }
    }
}
Say "$nonce done $(Instant)"
