// Package harness runs a real Caddy, built from this repository with the race
// detector, as a process of its own: what tests see is what users see.
package harness

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

var build struct {
	once sync.Once
	path string
	err  error
}

// Binary returns the path of the custom caddy, built once for each run of
// tests. INJECT_TOKEN_CADDY names one that is built already.
func Binary(tb testing.TB) string {
	tb.Helper()
	build.once.Do(func() {
		if path := os.Getenv("INJECT_TOKEN_CADDY"); path != "" {
			build.path = path
			return
		}
		dir, err := os.MkdirTemp("", "inject-token-caddy-")
		if err != nil {
			build.err = err
			return
		}
		build.path = filepath.Join(dir, "caddy")
		cmd := exec.Command("go", "build", "-race", "-o", build.path, "./cmd/caddy")
		cmd.Dir = repository()
		if out, err := cmd.CombinedOutput(); err != nil {
			build.err = fmt.Errorf("building caddy: %w\n%s", err, out)
		}
	})
	if build.err != nil {
		tb.Fatal(build.err)
	}
	return build.path
}

// RemoveBinary removes what Binary and SharedBinaryWith have built. A package's
// TestMain calls it at the end.
func RemoveBinary() {
	removeShared()
	if build.path != "" && os.Getenv("INJECT_TOKEN_CADDY") == "" {
		os.RemoveAll(filepath.Dir(build.path))
	}
}

// repository returns the root of the repository: the nearest folder above with
// the command.
func repository() string {
	dir, err := os.Getwd()
	if err != nil {
		panic(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "cmd", "caddy", "main.go")); err == nil {
			return dir
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			panic("the repository was not found above the working directory")
		}
		dir = parent
	}
}

// ReadRepositoryFile returns a file of the repository, such as README.md.
func ReadRepositoryFile(tb testing.TB, name string) string {
	tb.Helper()
	text, err := os.ReadFile(filepath.Join(repository(), name))
	if err != nil {
		tb.Fatal(err)
	}
	return string(text)
}

// Caddy is a running Caddy.
type Caddy struct {
	// Dir is its own folder: configuration, storage and whatever a test puts
	// there.
	Dir string

	// Admin is the address of its admin API, 127.0.0.1:PORT.
	Admin string

	tb   testing.TB
	cmd  *exec.Cmd
	log  *buffer
	done chan struct{} // closed when the process has ended
	err  error         // of the process; read after done
}

// Option changes how Caddy is started.
type Option func(*exec.Cmd, *Caddy)

// Env adds a variable, NAME=VALUE, to the environment of Caddy.
func Env(pairs ...string) Option {
	return func(cmd *exec.Cmd, _ *Caddy) { cmd.Env = append(cmd.Env, pairs...) }
}

// Globals are global options that every test needs: {{globals}} in a Caddyfile
// becomes them. They end with a log at debug level on standard error.
const globals = `admin %s
	auto_https disable_redirects
	skip_install_trust
	local_certs
	debug
	grace_period 3s`

// Start runs Caddy with a Caddyfile until the test ends, and returns when it
// serves. {{globals}} in it becomes the global options that every test needs,
// and {{dir}} the folder of this Caddy. The test fails if Caddy reports a data
// race or a panic.
func Start(tb testing.TB, caddyfile string, options ...Option) *Caddy {
	tb.Helper()
	c := newCaddy(tb, "127.0.0.1:"+strconv.Itoa(Port(tb)))
	c.Write("Caddyfile", c.Expand(caddyfile))
	c.start([]string{"--config", filepath.Join(c.Dir, "Caddyfile"), "--adapter", "caddyfile"}, options)
	return c
}

// StartJSON runs Caddy with a JSON configuration whose admin API is at an
// address.
func StartJSON(tb testing.TB, config, admin string, options ...Option) *Caddy {
	tb.Helper()
	c := newCaddy(tb, admin)
	c.Write("caddy.json", config)
	c.start([]string{"--config", filepath.Join(c.Dir, "caddy.json")}, options)
	return c
}

func newCaddy(tb testing.TB, admin string) *Caddy {
	return &Caddy{Dir: tb.TempDir(), Admin: admin, tb: tb, log: new(buffer), done: make(chan struct{})}
}

func (c *Caddy) start(args []string, options []Option) {
	tb := c.tb
	tb.Helper()
	cmd := command(tb, c.Dir, append([]string{"run"}, args...)...)
	for _, option := range options {
		option(cmd, c)
	}
	cmd.Stdout, cmd.Stderr = c.log, c.log
	c.cmd = cmd
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	go func() {
		c.err = cmd.Wait()
		close(c.done)
	}()
	tb.Cleanup(func() {
		c.Stop()
		c.assertSound()
		if tb.Failed() {
			tb.Logf("the end of Caddy's log:\n%s", tail(c.Log(), 6000))
		}
	})
	c.Eventually(time.Minute, "Caddy serves", func() bool {
		select {
		case <-c.done:
			tb.Fatalf("Caddy ended: %v\n%s", c.err, tail(c.Log(), 6000))
		default:
		}
		return strings.Contains(c.Log(), "serving initial configuration")
	})
}

func command(tb testing.TB, dir string, args ...string) *exec.Cmd {
	cmd := exec.Command(Binary(tb), args...)
	cmd.Dir = dir
	cmd.Env = []string{
		"HOME=" + dir, "XDG_DATA_HOME=" + filepath.Join(dir, "data"), "XDG_CONFIG_HOME=" + filepath.Join(dir, "config"),
		"PATH=" + os.Getenv("PATH"), "TMPDIR=" + dir, "GORACE=halt_on_error=0", "NO_PROXY=*",
	}
	return cmd
}

// Command is a command of the caddy binary, to be run in a folder as Caddy
// itself is.
func Command(tb testing.TB, dir string, args ...string) *exec.Cmd {
	tb.Helper()
	return command(tb, dir, args...)
}

// Run runs a command of the caddy binary to its end and returns what it
// printed and its exit code.
func Run(tb testing.TB, dir string, args ...string) (output string, code int) {
	tb.Helper()
	out, err := command(tb, dir, args...).CombinedOutput()
	if _, exited := err.(*exec.ExitError); err != nil && !exited {
		tb.Fatal(err)
	} else if exited {
		return string(out), err.(*exec.ExitError).ExitCode()
	}
	return string(out), 0
}

// Output runs a command of the caddy binary that must succeed, and returns
// what it printed on standard output.
func Output(tb testing.TB, dir string, args ...string) string {
	tb.Helper()
	out, err := command(tb, dir, args...).Output()
	if err != nil {
		tb.Fatalf("caddy %v: %v", args, err)
	}
	return string(out)
}

// Expand replaces {{globals}}, {{admin}} and {{dir}} in a Caddyfile.
func (c *Caddy) Expand(caddyfile string) string {
	return strings.NewReplacer("{{globals}}", fmt.Sprintf(globals, c.Admin), "{{admin}}", c.Admin, "{{dir}}", c.Dir).Replace(caddyfile)
}

// Write writes a file in Dir, whole: readers see the old text or the new.
func (c *Caddy) Write(name, text string) {
	c.tb.Helper()
	path := filepath.Join(c.Dir, name)
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		c.tb.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		c.tb.Fatal(err)
	}
}

// admin does not keep connections: each reload replaces the admin server, and
// the old one closes those that are idle.
var admin = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

// Reload loads a Caddyfile through the admin API, as `caddy reload` does. The
// error holds the admin API's answer.
func (c *Caddy) Reload(caddyfile string) error {
	resp, err := admin.Post("http://"+c.Admin+"/load", "text/caddyfile", strings.NewReader(c.Expand(caddyfile)))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d: %s", resp.StatusCode, body)
	}
	return nil
}

// AdminGet returns what the admin API answers to a GET.
func (c *Caddy) AdminGet(path string) string {
	c.tb.Helper()
	resp, err := admin.Get("http://" + c.Admin + path)
	if err != nil {
		c.tb.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		c.tb.Fatal(err)
	}
	return string(body)
}

var goroutineTotal = regexp.MustCompile(`total (\d+)`)

// Goroutines returns how many goroutines Caddy has.
func (c *Caddy) Goroutines() int {
	c.tb.Helper()
	m := goroutineTotal.FindStringSubmatch(c.AdminGet("/debug/pprof/goroutine?debug=1"))
	if m == nil {
		c.tb.Fatal("pprof does not tell the number of goroutines")
	}
	n, _ := strconv.Atoi(m[1])
	return n
}

// PID is the process id of Caddy.
func (c *Caddy) PID() int { return c.cmd.Process.Pid }

// Signal sends a signal to Caddy.
func (c *Caddy) Signal(s os.Signal) {
	if err := c.cmd.Process.Signal(s); err != nil {
		c.tb.Error(err)
	}
}

// Done is closed when Caddy has ended.
func (c *Caddy) Done() <-chan struct{} { return c.done }

// Stop ends Caddy as a service manager does, and kills it if it does not end
// within 15 seconds. It may be called again.
func (c *Caddy) Stop() {
	select {
	case <-c.done:
		return
	default:
	}
	_ = c.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-c.done:
	case <-time.After(15 * time.Second):
		c.tb.Errorf("Caddy did not end within 15 s of SIGTERM")
		_ = c.cmd.Process.Kill()
		<-c.done
	}
}

func (c *Caddy) assertSound() {
	for _, bad := range []string{"WARNING: DATA RACE", "panic: ", "\"panic ", "goroutine stack exceeds"} {
		for rest := c.Log(); ; {
			i := strings.Index(rest, bad)
			if i < 0 {
				break
			}
			report := rest[i:min(len(rest), i+20000)]
			rest = rest[i+len(bad):]
			if bad == "WARNING: DATA RACE" {
				report, _, _ = strings.Cut(report, "==================")
				// Caddy's own: reverse_proxy reads and closes a body at once, and the
				// access log counts what of one is still being read.
				counted := strings.Contains(report, "(*lengthReader).Read") && strings.Contains(report, "(*Server).logRequest")
				if counted || !strings.Contains(report, "caddytoken/inject-token") {
					c.tb.Log("a data race in which none of our code has a part")
					continue
				}
			}
			c.tb.Errorf("Caddy's log holds %q:\n%s", bad, report[:min(len(report), 7000)])
			break
		}
	}
}

// Log returns all that Caddy has printed.
func (c *Caddy) Log() string { return c.log.String() }

// LogLines returns the lines of the log that are JSON.
func (c *Caddy) LogLines() []map[string]any {
	var lines []map[string]any
	for line := range strings.SplitSeq(c.Log(), "\n") {
		var fields map[string]any
		if json.Unmarshal([]byte(line), &fields) == nil && fields != nil {
			lines = append(lines, fields)
		}
	}
	return lines
}

// LogCount returns how many lines of a logger have a message.
func (c *Caddy) LogCount(logger, message string) int {
	n := 0
	for _, line := range c.LogLines() {
		if line["logger"] == logger && line["msg"] == message {
			n++
		}
	}
	return n
}

// WaitLog waits until the log holds a text.
func (c *Caddy) WaitLog(text string) {
	c.tb.Helper()
	c.Eventually(30*time.Second, "the log holds "+text, func() bool { return strings.Contains(c.Log(), text) })
}

// Eventually waits until a condition holds, and fails the test if it does not
// within the time.
func (c *Caddy) Eventually(within time.Duration, what string, condition func() bool) {
	c.tb.Helper()
	Eventually(c.tb, within, what, condition)
}

// Eventually waits until a condition holds, and fails the test if it does not
// within the time.
func Eventually(tb testing.TB, within time.Duration, what string, condition func() bool) {
	tb.Helper()
	for deadline := time.Now().Add(within); !condition(); {
		if time.Now().After(deadline) {
			tb.Fatalf("not within %v: %s", within, what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// Get asks for a URL and returns the answer and its body.
func Get(tb testing.TB, url string) (*http.Response, string) {
	tb.Helper()
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		tb.Fatal(err)
	}
	return Do(tb, req)
}

// Do sends a request, without following redirects, and returns the answer and
// its body. It waits a minute at most.
func Do(tb testing.TB, req *http.Request) (*http.Response, string) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(req.Context(), time.Minute)
	defer cancel()
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(req.WithContext(ctx))
	if err != nil {
		tb.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		tb.Fatal(err)
	}
	return resp, string(body)
}

func tail(text string, n int) string {
	if len(text) > n {
		return "…" + text[len(text)-n:]
	}
	return text
}

// buffer is a bytes.Buffer for a process and a test at once.
type buffer struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// File writes a file into the folder of Caddy before it starts.
func File(name, text string) Option {
	return func(_ *exec.Cmd, c *Caddy) { c.Write(name, text) }
}

// WriteFile writes a file into a folder.
func WriteFile(tb testing.TB, dir, name, text string) {
	tb.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
		tb.Fatal(err)
	}
}
