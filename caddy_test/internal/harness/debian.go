package harness

import (
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
)

var debian struct {
	mu      sync.Mutex // guards updated
	updated bool
}

// Need makes sure that a program is there. Where it is missing, its packages
// are installed if this is Debian and we are root, as on a machine that has
// Go and nothing else.
func Need(tb testing.TB, program string, packages ...string) {
	tb.Helper()
	debian.mu.Lock()
	defer debian.mu.Unlock()
	if _, err := exec.LookPath(program); err == nil {
		return
	}
	if _, err := exec.LookPath("apt-get"); err != nil || os.Getuid() != 0 {
		tb.Fatalf("this test needs %s; install it (on Debian: apt-get install %s)", program, strings.Join(packages, " "))
	}
	if !debian.updated {
		apt(tb, "update")
		debian.updated = true
	}
	apt(tb, append([]string{"install", "--yes", "--no-install-recommends"}, packages...)...)
	if _, err := exec.LookPath(program); err != nil {
		tb.Fatalf("%s is missing although %v are installed", program, packages)
	}
}

func apt(tb testing.TB, args ...string) {
	tb.Helper()
	cmd := exec.Command("apt-get", append([]string{"-qq", "-o", "DPkg::Lock::Timeout=300"}, args...)...)
	// In runlevel 1 a package does not start the service that it brings.
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "RUNLEVEL=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		tb.Fatalf("apt-get %v: %v\n%s", args, err, out)
	}
}
