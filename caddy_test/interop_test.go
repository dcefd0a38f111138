package caddy_test

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/caddytoken/inject-token/caddy_test/internal/harness"
)

// interopLifetime is how many seconds tokens live. They are renewed after a small
// part of that (renewedEarly), so that no machine is too slow for them.
const (
	interopLifetime = 60
	renewedEarly    = "refresh_at 5%\n"
	renewedEarlier  = "refresh_at 1%\n" // at zitadel's, where they live for five minutes

	patient  = "timeout 60s\n" // a server on a busy machine is slow, and not down
	rowsOnce = 6               // rows that are driven at once, so that they do not slow each other
)

// TestInterop drives each cell of the table that docs/interop.md shows: servers
// that others have written, each in a process of its own, and a real Caddy for
// each row.
func TestInterop(t *testing.T) {
	t.Parallel()
	w := &interopWorld{t: t, keys: newInteropKeys(t), sites: make(map[string]string)}
	servers := theServers()
	for _, s := range servers {
		for _, o := range theOffers[s.word] {
			w.sites[s.word+" "+o.way] = "http://127.0.0.1:" + itoa(harness.Port(t))
		}
	}
	t.Run("document", func(t *testing.T) { assertInteropDocument(t, servers) })
	var starting sync.WaitGroup
	for _, s := range servers {
		starting.Go(func() { s.host = s.start(w) })
	}
	starting.Wait()
	running := make(chan struct{}, rowsOnce)
	for _, s := range servers {
		if s.host == "" {
			t.Fatal("a server has not started")
		}
		for _, o := range theOffers[s.word] {
			if o.absent == "" {
				t.Run(s.word+"/"+o.way, func(t *testing.T) {
					t.Parallel()
					running <- struct{}{}
					defer func() { <-running }()
					newInteropRow(t, w, s, o).run()
				})
			}
		}
	}
}

// interopRow is a row of the table as it is driven.
type interopRow struct {
	t      *testing.T
	world  *interopWorld
	server *interopServer
	offer  offer
	way    *interopWay

	dir     string // its files; those of the same names in dir/wrong are wrong
	site    string // its address
	base    string // of the server
	subject string // a token that is to be exchanged
	api     *interopAPI
	wrongly *tokenRecorder // stands before the server where the wrong credential goes
	c       *harness.Caddy
}

func newInteropRow(t *testing.T, w *interopWorld, s *interopServer, o offer) *interopRow {
	t.Helper()
	r := &interopRow{t: t, world: w, server: s, offer: o, way: wayOf(o.way), dir: t.TempDir(), site: w.sites[s.word+" "+o.way]}
	r.api = newInteropAPI(t, s, r.way.binding, w.keys)
	r.base = "http://" + s.host
	switch r.way.binding {
	case withCertificate:
		r.base = s.tls
	case withFreshProof:
		r.base = s.nonce
	}
	r.wrongly = newTokenRecorder(t, strings.TrimPrefix(r.base, "http://"))
	r.subject = r.newSubject()
	r.writeFiles()
	return r
}

// run checks one column after the other.
func (r *interopRow) run() {
	r.start()
	r.authorize("crm")
	r.assertServed()
	for _, check := range []struct {
		column column
		assert func()
	}{
		{theWrongCredential, r.assertWrongRefused},
		{theRenewal, r.assertRenewed},
		{theRotation, r.assertRotated},
		{theRevocation, r.assertRevoked},
	} {
		if r.has(check.column) {
			check.assert()
		}
	}
	if r.hasWrong() {
		r.assertNotHammered() // in all this time
	}
}

// has says whether the server has what a column is about.
func (r *interopRow) has(c column) bool { return r.offer.none[c] == "" }

// callbacks is where browsers come back to.
func (w *interopWorld) callbacks() string {
	var all []string
	for _, site := range slices.Sorted(maps.Values(w.sites)) {
		all = append(all, site+"/callback")
	}
	return strings.Join(all, " ")
}
