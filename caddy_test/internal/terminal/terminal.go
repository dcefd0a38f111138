// Package terminal uses a command as a person does, in a pseudo-terminal, and
// as a script does, through pipes: what stands on the screen, what is typed,
// Ctrl-C, and the exit code.
package terminal

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
)

// patience is how long anything may take. It is long: the command may have been
// built with the race detector, on a machine that has other work.
const patience = time.Minute

// Session is a command that runs.
type Session struct {
	tb    testing.TB
	name  string
	cmd   *exec.Cmd
	input io.WriteCloser // the terminal, or the pipe to standard input
	tty   *os.File       // nil with pipes

	done chan struct{} // closed when the command has ended and all was read
	code int           // read after done

	mu     sync.Mutex // guards what follows
	output strings.Builder
	stdout strings.Builder // with pipes
	seen   int             // how much of the screen was waited for
}

// Start runs a command in a terminal of 100 columns until the test ends.
func Start(tb testing.TB, cmd *exec.Cmd) *Session {
	tb.Helper()
	s := newSession(tb, cmd)
	cmd.Env = append(cmd.Environ(), "TERM=xterm-256color")
	tty, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 40, Cols: 100})
	if err != nil {
		tb.Fatal(err)
	}
	s.tty, s.input = tty, tty
	read := make(chan struct{})
	go func() {
		defer close(read)
		_, _ = io.Copy(s.writer(false), tty) // ends with EIO when the last process has closed it
	}()
	go s.wait(func() {
		select {
		case <-read:
		case <-time.After(time.Second): // a child of the command holds the terminal
		}
	})
	tb.Cleanup(func() {
		s.end()
		tty.Close()
	})
	return s
}

// StartPiped runs a command without a terminal until the test ends: its
// standard input is a pipe, which Close ends.
func StartPiped(tb testing.TB, cmd *exec.Cmd) *Session {
	tb.Helper()
	s := newSession(tb, cmd)
	var err error
	if s.input, err = cmd.StdinPipe(); err != nil {
		tb.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = s.writer(true), s.writer(false)
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	go s.wait(func() {})
	tb.Cleanup(s.end)
	return s
}

func newSession(tb testing.TB, cmd *exec.Cmd) *Session {
	return &Session{tb: tb, name: strings.Join(cmd.Args[1:], " "), cmd: cmd, done: make(chan struct{})}
}

func (s *Session) wait(rest func()) {
	err := s.cmd.Wait()
	rest()
	if exit, exited := errors.AsType[*exec.ExitError](err); exited {
		s.code = exit.ExitCode()
	} else if err != nil {
		s.code = -1
	}
	close(s.done)
}

func (s *Session) end() {
	select {
	case <-s.done:
	default:
		_ = s.cmd.Process.Kill()
		<-s.done
	}
	if s.tb.Failed() {
		s.tb.Logf("the screen of %s, which ended with %d:\n%s", s.name, s.code, s.Screen())
	}
}

// Type types a line and Enter.
func (s *Session) Type(line string) {
	s.tb.Helper()
	if _, err := io.WriteString(s.input, line+"\n"); err != nil {
		s.tb.Fatalf("%s: typing: %v", s.name, err)
	}
}

// Interrupt presses Ctrl-C.
func (s *Session) Interrupt() {
	s.tb.Helper()
	var err error
	if s.tty != nil {
		_, err = io.WriteString(s.tty, "\x03")
	} else {
		err = s.cmd.Process.Signal(syscall.SIGINT)
	}
	if err != nil {
		s.tb.Fatalf("%s: Ctrl-C: %v", s.name, err)
	}
}

// Close ends standard input: Ctrl-D in a terminal.
func (s *Session) Close() {
	s.tb.Helper()
	var err error
	if s.tty != nil {
		_, err = io.WriteString(s.tty, "\x04")
	} else {
		err = s.input.Close()
	}
	if err != nil {
		s.tb.Fatalf("%s: the end of standard input: %v", s.name, err)
	}
}

// Await waits until the screen shows a text after all that was waited for
// before, and returns what stands between.
func (s *Session) Await(text string) (before string) {
	s.tb.Helper()
	m := s.AwaitMatch(regexp.MustCompile("(?s)(.*?)" + regexp.QuoteMeta(text)))
	return m[1]
}

// AwaitMatch is Await for a regular expression, and returns what was found.
func (s *Session) AwaitMatch(pattern *regexp.Regexp) (match []string) {
	s.tb.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		ended := s.Ended() // before the look, which then sees all of it
		screen := s.Screen()
		rest := screen[min(s.seen, len(screen)):]
		if at := pattern.FindStringIndex(rest); at != nil {
			s.seen += at[1]
			return pattern.FindStringSubmatch(rest)
		}
		if ended {
			s.tb.Fatalf("%s: ended with %d without %s", s.name, s.code, pattern)
		}
		if time.Now().After(deadline) {
			s.tb.Fatalf("%s: not within %v: %s", s.name, patience, pattern)
		}
	}
}

// Ended says whether the command has ended.
func (s *Session) Ended() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

// ExitCode waits until the command has ended, and returns its exit code; -1 is
// the end by a signal.
func (s *Session) ExitCode() int {
	s.tb.Helper()
	select {
	case <-s.done:
	case <-time.After(patience):
		s.tb.Fatalf("%s: has not ended within %v", s.name, patience)
	}
	return s.code
}

// Raw is all that the command wrote, byte for byte.
func (s *Session) Raw() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.output.String()
}

// Stdout is what the command wrote to standard output, where that is a pipe.
func (s *Session) Stdout() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stdout.String()
}

// Screen is all that a person has seen.
func (s *Session) Screen() string { return Shown(s.Raw()) }

type writer struct {
	s      *Session
	stdout bool
}

func (s *Session) writer(stdout bool) io.Writer { return writer{s, stdout} }

func (w writer) Write(p []byte) (int, error) {
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	if w.stdout {
		w.s.stdout.Write(p)
	}
	return w.s.output.Write(p)
}
