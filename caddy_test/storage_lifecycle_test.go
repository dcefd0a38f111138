package caddy_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/caddytoken/inject-token/caddy_test/internal/harness"
	"github.com/caddytoken/inject-token/caddy_test/internal/provider"
)

// closingStorage is a storage of files that is of no use after its Cleanup, as
// one is that closes its connections then.
const closingStorage = `package main

import (
	"context"
	"errors"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/certmagic"
)

func init() { caddy.RegisterModule(new(closing)) }

type closing struct {
	Root   string
	files  *certmagic.FileStorage
	closed atomic.Bool
}

var errClosed = errors.New("the client is closed")

func (*closing) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddy.storage.closing", New: func() caddy.Module { return new(closing) }}
}

func (s *closing) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	d.Args(&s.Root)
	return nil
}

func (s *closing) CertMagicStorage() (certmagic.Storage, error) {
	s.files = &certmagic.FileStorage{Path: s.Root}
	return s, nil
}

func (s *closing) Cleanup() error {
	s.closed.Store(true)
	return nil
}

func (s *closing) Lock(ctx context.Context, name string) error {
	if s.closed.Load() {
		return errClosed
	}
	return s.files.Lock(ctx, name)
}

func (s *closing) Unlock(ctx context.Context, name string) error {
	if s.closed.Load() {
		return errClosed
	}
	return s.files.Unlock(ctx, name)
}

func (s *closing) Store(ctx context.Context, key string, value []byte) error {
	if s.closed.Load() {
		return errClosed
	}
	return s.files.Store(ctx, key, value)
}

func (s *closing) Load(ctx context.Context, key string) ([]byte, error) {
	if s.closed.Load() {
		return nil, errClosed
	}
	return s.files.Load(ctx, key)
}

func (s *closing) Delete(ctx context.Context, key string) error {
	if s.closed.Load() {
		return errClosed
	}
	return s.files.Delete(ctx, key)
}

func (s *closing) Exists(ctx context.Context, key string) bool {
	return !s.closed.Load() && s.files.Exists(ctx, key)
}

func (s *closing) List(ctx context.Context, path string, recursive bool) ([]string, error) {
	if s.closed.Load() {
		return nil, errClosed
	}
	return s.files.List(ctx, path, recursive)
}

func (s *closing) Stat(ctx context.Context, key string) (certmagic.KeyInfo, error) {
	if s.closed.Load() {
		return certmagic.KeyInfo{}, errClosed
	}
	return s.files.Stat(ctx, key)
}
`

// closingBinary is a caddy with that storage.
func closingBinary(t *testing.T) harness.Option {
	t.Helper()
	return harness.Executable(harness.SharedBinaryWith(t, "closing", closingStorage))
}

// consented is a source that a person has authorized once, and where its token
// is stored.
type consented struct {
	p            *provider.Provider
	storage      string // the module
	folder       string
	refreshToken string
	port         int
	keys         string
	options      string // of the source
	site         string // further lines
}

// newConsented has a provider of which each refresh token can be spent once.
func newConsented(t *testing.T, knobs func(k *provider.Knobs)) consented {
	t.Helper()
	p := provider.New(t, provider.Dialect{})
	p.Set(func(k *provider.Knobs) {
		k.Rotate, k.Families = true, true
		knobs(k)
	})
	return consented{p: p, storage: "file_system", folder: t.TempDir(), refreshToken: p.IssueRefreshToken(), port: harness.Port(t)}
}

// node is the same source in another process.
func (a consented) node(t *testing.T) consented {
	t.Helper()
	a.port = harness.Port(t)
	return a
}

func (a consented) caddyfile() string {
	keys := ""
	if a.keys != "" {
		keys = "encryption_key " + a.keys
	}
	return fmt.Sprintf(`{
	{{globals}}
	storage %s %s
	token_sources {
		%s
		source crm {
			grant refresh_token
			token_url %s
			client_id %s
			client_secret {file.{{dir}}/secret}
			refresh_token {file.{{dir}}/refresh-token}
			%s
		}
	}
}
http://127.0.0.1:%d {
	bind 127.0.0.1
	%s
	inject_token crm %s
}
`, a.storage, a.folder, keys, a.p.TokenURL(), provider.ClientID, a.options, a.port, a.site, a.p.API)
}

func (a consented) start(t *testing.T, options ...harness.Option) *harness.Caddy {
	t.Helper()
	options = append(options, withSecret(a.p.ExpectedSecret()), harness.File("refresh-token", a.refreshToken))
	return harness.Start(t, a.caddyfile(), options...)
}

// status is what a caller gets.
func (a consented) status(t *testing.T) int {
	t.Helper()
	resp, _ := harness.Get(t, "http://127.0.0.1:"+itoa(a.port)+"/")
	return resp.StatusCode
}

func (a consented) serves(t *testing.T) func() bool {
	return func() bool { return a.status(t) == http.StatusOK }
}

func (a consented) asked(n int) func() bool { return func() bool { return a.p.Count() >= n } }

// files are those of a name in the storage.
func (a consented) files(t *testing.T, name string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(a.folder, "token_sources/*/*", name))
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// locks are those that are held in the storage.
func (a consented) locks(t *testing.T) []string {
	t.Helper()
	locks, err := filepath.Glob(filepath.Join(a.folder, "locks", "token_sources_*"))
	if err != nil {
		t.Fatal(err)
	}
	return locks
}

// stored is the text of the record, or "".
func (a consented) stored(t *testing.T) string {
	t.Helper()
	files := a.files(t, "token.json")
	if len(files) != 1 {
		return ""
	}
	text, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func (a consented) assertSpentOnce(t *testing.T) {
	t.Helper()
	if n := a.p.Reused(); n > 0 {
		t.Errorf("%d refresh tokens were spent twice, %d families are revoked", n, a.p.RevokedFamilies())
	}
}

// TestAnOrderlyStopStoresTheRotatedTokenBeforeTheStorageIsClosed stops Caddy
// while a token request is under way, with a storage that closes.
func TestAnOrderlyStopStoresTheRotatedTokenBeforeTheStorageIsClosed(t *testing.T) {
	t.Parallel()
	a := newConsented(t, func(k *provider.Knobs) { k.Delay = 2 * time.Second })
	a.storage = "closing"
	closing := closingBinary(t)
	c := a.start(t, closing)
	c.Eventually(30*time.Second, "a token request", a.asked(1))
	c.Signal(syscall.SIGTERM)
	<-c.Done()
	if a.stored(t) == "" {
		t.Error("the rotated refresh token is not stored")
	}
	if left := a.files(t, "intent-*"); len(left) > 0 {
		t.Errorf("left behind are %v", left)
	}
	a.p.Set(func(k *provider.Knobs) { k.Delay = 0 })
	again := a.start(t, closing)
	again.Eventually(30*time.Second, "the next process serves", a.serves(t))
	a.p.Revoke()
	again.Eventually(30*time.Second, "it goes on with what is stored", func() bool { return a.status(t) == http.StatusOK && a.p.Count() >= 2 })
	a.assertSpentOnce(t)
}

// TestAReloadDuringATokenRequestGoesOnBeatingInTheNewStorage has another node wait
// for a request that takes longer than a node is silent before it counts as dead.
func TestAReloadDuringATokenRequestGoesOnBeatingInTheNewStorage(t *testing.T) {
	t.Parallel()
	a := newConsented(t, func(k *provider.Knobs) { k.Delay = 16 * time.Second })
	a.storage, a.options = "closing", "timeout 25s"
	closing := closingBinary(t)
	c := a.start(t, closing)
	c.Eventually(30*time.Second, "a token request", a.asked(1))
	b := a.node(t)
	other := b.start(t, closing)
	a.site = "header X-Changed something"
	if err := c.Reload(a.caddyfile()); err != nil {
		t.Fatal(err)
	}
	a.p.Set(func(k *provider.Knobs) { k.Delay = 0 })
	c.Eventually(40*time.Second, "it serves", a.serves(t))
	other.Eventually(40*time.Second, "the other one serves", b.serves(t))
	if n := a.p.Count(); n != 1 {
		t.Errorf("there were %d token requests", n)
	}
	a.assertSpentOnce(t)
	c.Eventually(20*time.Second, "nothing is left of the request", func() bool {
		return len(a.files(t, "intent-*")) == 0 && len(a.locks(t)) == 0
	})
}

// TestAReloadWithAnotherStorageDuringATokenRequestStoresTheTokenThere changes the
// storage while a refresh token is being spent, and restarts with the new one.
func TestAReloadWithAnotherStorageDuringATokenRequestStoresTheTokenThere(t *testing.T) {
	t.Parallel()
	a := newConsented(t, func(k *provider.Knobs) { k.Delay = 4 * time.Second })
	c := a.start(t)
	c.Eventually(30*time.Second, "a token request", a.asked(1))
	a.folder = t.TempDir()
	if err := c.Reload(a.caddyfile()); err != nil {
		t.Fatal(err)
	}
	a.p.Set(func(k *provider.Knobs) { k.Delay = 0 })
	c.Eventually(30*time.Second, "it serves", a.serves(t))
	c.Eventually(30*time.Second, "the token is in the new storage", func() bool { return a.stored(t) != "" })
	c.Stop()
	again := a.start(t)
	again.Eventually(30*time.Second, "the next process serves", a.serves(t))
	a.p.Revoke()
	again.Eventually(30*time.Second, "it goes on with what is stored", func() bool { return a.status(t) == http.StatusOK && a.p.Count() >= 2 })
	a.assertSpentOnce(t)
}

// TestAProcessThatWasKilledIsGivenUpBeforeAShortTimeoutEnds kills Caddy while its
// token request is under way, where timeout is shorter than the time after which
// a process counts as dead.
func TestAProcessThatWasKilledIsGivenUpBeforeAShortTimeoutEnds(t *testing.T) {
	t.Parallel()
	p := provider.New(t, provider.Dialect{})
	p.Set(func(k *provider.Knobs) { k.Delay = 2 * time.Second }) // it rotates nothing
	a := consented{p: p, storage: "file_system", folder: t.TempDir(), refreshToken: p.IssueRefreshToken(), port: harness.Port(t), options: "timeout 3s"}
	c := a.start(t)
	c.Eventually(30*time.Second, "a token request", a.asked(1))
	c.KillNine()
	if left := a.files(t, "intent-*"); len(left) != 1 {
		t.Fatalf("left behind are %v", left)
	}
	p.Set(func(k *provider.Knobs) { k.Delay = 0 })
	again := a.start(t)
	// Ten seconds, and room for a machine that is slow.
	again.Eventually(25*time.Second, "the next process serves", a.serves(t))
}

// TestAReloadThatBringsTheKeyServesAgain starts Caddy without the key of what is
// stored, and reloads it with both keys.
func TestAReloadThatBringsTheKeyServesAgain(t *testing.T) {
	t.Parallel()
	old, next := newKey(t), newKey(t)
	for name, lifetime := range map[string]time.Duration{"where the token lives": time.Hour, "where it has ended": 4 * time.Second} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newConsented(t, func(k *provider.Knobs) { k.Lifetime = lifetime })
			a.keys = old
			c := a.start(t)
			c.Eventually(30*time.Second, "a token", func() bool { return a.status(t) == http.StatusOK && a.stored(t) != "" })
			c.Stop()
			before, asked := a.stored(t), a.p.Count()
			if lifetime < time.Minute {
				time.Sleep(lifetime)
			}
			a.keys = next
			again := a.start(t)
			again.Eventually(30*time.Second, "a caller is refused", func() bool { return a.status(t) == http.StatusBadGateway })
			a.site = "header X-Changed something"
			if err := again.Reload(a.caddyfile()); err != nil { // without the key
				t.Fatal(err)
			}
			if after := a.stored(t); after != before || len(a.files(t, "unreadable*")) > 0 || a.p.Count() != asked {
				t.Errorf("the entry was touched: %v, %d token requests more", after != before, a.p.Count()-asked)
			}
			a.keys = next + " " + old
			if err := again.Reload(a.caddyfile()); err != nil {
				t.Fatal(err)
			}
			again.Eventually(25*time.Second, "it serves with both keys", a.serves(t))
			a.assertSpentOnce(t)
		})
	}
}

// TestAReloadOfANodeWithoutTheNewKeyLeavesTheNewestTokenAlone brings a new key to
// one node of two, and reloads the other one for another reason.
func TestAReloadOfANodeWithoutTheNewKeyLeavesTheNewestTokenAlone(t *testing.T) {
	t.Parallel()
	a := newConsented(t, func(k *provider.Knobs) { k.Lifetime = 20 * time.Second })
	old, next := newKey(t), newKey(t)
	a.keys = old
	b := a.node(t)
	first := a.start(t)
	first.Eventually(30*time.Second, "a token", a.serves(t))
	second := b.start(t)
	second.Eventually(30*time.Second, "a token", b.serves(t))
	a.keys = next + " " + old
	if err := first.Reload(a.caddyfile()); err != nil {
		t.Fatal(err)
	}
	before, asked := a.stored(t), a.p.Count()
	a.p.Revoke() // the first one renews at once, the second one not yet
	first.Eventually(30*time.Second, "the first node renews", func() bool {
		return a.status(t) == http.StatusOK && a.p.Count() > asked && a.stored(t) != before
	})
	b.site = "header X-Changed something"
	if err := second.Reload(b.caddyfile()); err != nil {
		t.Fatal(err)
	}
	// Until its own token has ended, and longer.
	for end := time.Now().Add(22 * time.Second); time.Now().Before(end) && a.p.Reused() == 0; time.Sleep(500 * time.Millisecond) {
		if got := a.status(t); got != http.StatusOK {
			t.Errorf("the first node answers %d", got)
		}
		b.status(t)
	}
	if aside := a.files(t, "unreadable*"); len(aside) > 0 {
		t.Errorf("put aside is %v", aside)
	}
	a.assertSpentOnce(t)
	b.keys = a.keys
	if err := second.Reload(b.caddyfile()); err != nil {
		t.Fatal(err)
	}
	second.Eventually(25*time.Second, "the second node serves with both keys", b.serves(t))
	a.assertSpentOnce(t)
}
