package harness

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Again starts Caddy once more after it has ended, in the same folder: with
// the Caddyfile and the storage that are there.
func (c *Caddy) Again(options ...Option) *Caddy {
	c.tb.Helper()
	select {
	case <-c.done:
	case <-time.After(15 * time.Second):
		c.tb.Fatal("Caddy is to be started again and has not ended")
	}
	next := &Caddy{Dir: c.Dir, Admin: c.Admin, tb: c.tb, log: new(buffer), done: make(chan struct{})}
	next.start([]string{"--config", filepath.Join(c.Dir, "Caddyfile"), "--adapter", "caddyfile"}, options)
	return next
}

// KillNine ends Caddy as a failing machine does: nothing of it runs any more,
// and nobody was told.
func (c *Caddy) KillNine() {
	c.Signal(syscall.SIGKILL)
	<-c.done
}

// Freeze stops every thread of Caddy, and returns when all stand still. Linux
// tells; elsewhere the test fails.
func (c *Caddy) Freeze() {
	c.tb.Helper()
	c.Signal(syscall.SIGSTOP)
	c.Eventually(10*time.Second, "all threads of Caddy stand still", func() bool { return stopped(c.PID()) })
}

// Thaw lets a frozen Caddy go on.
func (c *Caddy) Thaw() { c.Signal(syscall.SIGCONT) }

// stopped says whether each thread of a process is in the state T.
func stopped(pid int) bool {
	threads, err := filepath.Glob(filepath.Join("/proc", strconv.Itoa(pid), "task", "*", "stat"))
	if err != nil || len(threads) == 0 {
		return false
	}
	for _, thread := range threads {
		text, err := os.ReadFile(thread)
		if err != nil {
			return false // it ended meanwhile
		}
		// The name, in parentheses, may hold anything; the state follows.
		_, rest, found := strings.Cut(string(text[max(0, strings.LastIndexByte(string(text), ')')):]), " ")
		if !found || !strings.HasPrefix(rest, "T") {
			return false
		}
	}
	return true
}
