package caddy_test

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddytoken/inject-token/caddy_test/internal/faultstorage"
	"github.com/caddytoken/inject-token/caddy_test/internal/harness"
	"github.com/caddytoken/inject-token/caddy_test/internal/provider"
)

// trial drives one cell of the table: a source with a provider and an API of
// its own.
type trial struct {
	t       *testing.T
	fault   fault
	row     row
	holding holding
	name    string

	p       *provider.Provider
	front   *front // before the token endpoint; nil: there is none
	api     *faultyAPI
	control *faultstorage.Control
	release chan struct{} // of a storage that hangs
	token   string        // the refresh token that is configured
	global  string        // an option of token_sources
	own     bool          // the storage is the one that Caddy uses by itself

	c   *harness.Caddy
	url string

	asked int // token requests before the fault
	lines int // of the log before the fault

	mu     sync.Mutex // guards what follows
	answer func(http.ResponseWriter, *http.Request, int) bool
	hold   chan struct{} // until it is closed the provider answers nobody; nil: it does
}

// Lifetimes of the tokens that there are when a fault strikes.
const (
	validLifetime   = 5 * time.Minute // renewed after 1% of it: its source says so
	expiredLifetime = 2 * time.Second
)

func newTrial(t *testing.T, control *faultstorage.Control, f fault, r row, h holding) *trial {
	t.Helper()
	tr := &trial{
		t: t, fault: f, row: r, holding: h, control: control,
		name: strings.Join([]string{f.word, r.grant.word(), h.String()}, "-"),
		p:    provider.New(t, provider.Dialect{}),
	}
	tr.p.Set(func(k *provider.Knobs) {
		k.Rotate = r.grant != plainGrant
		k.Intercept = tr.intercept
		switch h {
		case valid:
			k.Lifetime = validLifetime
		case expired:
			k.Lifetime = cmp.Or(f.lives, expiredLifetime)
		case none:
		}
	})
	if r.grant == refreshGrant {
		tr.token = tr.p.IssueRefreshToken()
	}
	nodes := 1
	if r.cells[h].other != 0 {
		nodes = 2
	}
	tr.api = newFaultyAPI(t, tr.p, nodes)
	if f.section == ofProvider {
		tr.front = newFront(t, tr.p.URL)
	}
	return tr
}

func (tr *trial) cell() cell { return tr.row.cells[tr.holding] }

func (tr *trial) tokenURL() string {
	if tr.front != nil {
		return "http://" + tr.front.addr + "/token"
	}
	return tr.p.TokenURL()
}

// site is where callers of the trial ask.
func (tr *trial) site() string {
	return fmt.Sprintf("handle /%s {\n inject_token %[1]s %s {\n lb_policy round_robin\n}\n}\n",
		tr.name, strings.Join(tr.api.Nodes, " "))
}

// intercept is the provider's: it holds token requests back, and fails.
func (tr *trial) intercept(w http.ResponseWriter, r *http.Request, n int) bool {
	tr.mu.Lock()
	answer, hold := tr.answer, tr.hold
	tr.mu.Unlock()
	if hold != nil && !waitFor(r.Context(), hold) {
		return true
	}
	return answer != nil && answer(w, r, n)
}

// answers has token requests answered otherwise from now on.
func (tr *trial) answers(answer func(http.ResponseWriter, *http.Request, int) bool) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.answer = answer
}

// holdBack has the provider answer nobody until what is returned is called.
func (tr *trial) holdBack() (release func()) {
	hold := make(chan struct{})
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.hold = hold
	return func() {
		tr.mu.Lock()
		defer tr.mu.Unlock()
		tr.hold = nil
		close(hold)
	}
}

// options write the files of the trial.
func (tr *trial) options() []harness.Option {
	if tr.token == "" {
		return nil
	}
	return []harness.Option{harness.File(tr.name, tr.token)}
}

// errorf is Errorf, and says which cell it is.
func (tr *trial) errorf(format string, args ...any) {
	tr.t.Helper()
	tr.t.Errorf("%s: %s, %s, %s: %s", tr.name, tr.fault.title, tr.row.grant, tr.holding, fmt.Sprintf(format, args...))
}

// eventually waits for something, and says if it does not come.
func (tr *trial) eventually(within time.Duration, what string, condition func() bool) bool {
	tr.t.Helper()
	for deadline := time.Now().Add(within); !condition(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			tr.errorf("not within %v: %s", within, what)
			return false
		}
	}
	return true
}

// held says whether the provider is to answer only when callers wait.
func (tr *trial) held() bool {
	return tr.fault.held && tr.holding != valid && tr.cell().most != 0
}

// prepare is what is done before Caddy starts.
func (tr *trial) prepare() (release func()) {
	release = func() {}
	if tr.holding == none {
		if tr.held() {
			release = tr.holdBack()
		}
		tr.fault.strike(tr)
	}
	return release
}

// run drives the cell, once Caddy serves.
func (tr *trial) run(release func()) {
	if tr.holding != none {
		if !tr.eventually(30*time.Second, "there is a token", func() bool { return tr.count("info", "token obtained", "") > 0 }) {
			return
		}
		tr.asked, tr.lines = tr.p.Count(), len(tr.sourceLines())
		if tr.held() {
			release = tr.holdBack()
		}
		tr.fault.strike(tr)
		tr.p.Set(func(k *provider.Knobs) { k.Lifetime = time.Hour })
		if tr.holding == expired {
			// A token's last moment is another one for who issued it.
			end := tr.p.LastExpiry().Add(500 * time.Millisecond)
			tr.eventually(30*time.Second, "the token has ended", func() bool { return time.Now().After(end) })
		}
	}
	tr.call(release)
	tr.checkOutcomes()
	tr.checkProvider()
	tr.checkLog()
	if tr.fault.lift != nil {
		tr.fault.lift(tr)
		tr.checkRecovery()
	}
}

// callers is how many ask at once.
const callers = 3

// call asks as callers do, and checks what they get.
func (tr *trial) call(release func()) {
	before := tr.api.requests.Load()
	answers := make(chan answered, callers)
	for range callers {
		go func() { answers <- tr.ask() }()
	}
	if tr.held() {
		tr.eventually(30*time.Second, "the callers wait", func() bool { return tr.underWay() == callers })
	}
	release()
	released := time.Now()
	var got []answered
	for range callers {
		got = append(got, <-answers)
	}
	took := time.Since(released)
	tr.checkAnswers(got)
	want := tr.cell()
	if want.sent > 0 {
		if n := tr.api.requests.Load() - before; n < int64(want.sent) || n > int64(callers*want.sent) {
			tr.errorf("%d requests of %d callers came to the API, want %d of each at most", n, callers, want.sent)
		}
	}
	if want.wait > 0 {
		// Machines are slow, and this is no measurement.
		if took > want.wait+5*time.Second {
			tr.errorf("callers waited %v for %s, want %v at most", took, want.until, want.wait)
		}
		return
	}
	soonest := took
	for range 40 {
		if soonest < 500*time.Millisecond {
			return
		}
		again := tr.ask()
		tr.checkAnswers([]answered{again})
		soonest = min(soonest, again.took)
	}
	tr.errorf("no caller was answered at once, the soonest after %v", soonest)
}

func (tr *trial) ask() answered {
	if tr.fault.body == 0 {
		return tryToAsk(tr.url)
	}
	began := time.Now()
	client := http.Client{Timeout: time.Minute}
	resp, err := client.Post(tr.url, "application/octet-stream", bytes.NewReader(make([]byte, tr.fault.body)))
	if err != nil {
		return answered{body: err.Error()}
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return answered{body: err.Error()}
	}
	return answered{resp.StatusCode, resp.Header, string(text), time.Since(began)}
}

// underWay returns how many requests are at the API, or wait for a token to go
// there.
func (tr *trial) underWay() int {
	n := 0
	for _, upstream := range upstreams(tr.t, tr.c) {
		if slices.Contains(tr.api.Nodes, "http://"+upstream.Address) {
			n += upstream.NumRequests
		}
	}
	return n
}

func (tr *trial) checkAnswers(all []answered) {
	tr.t.Helper()
	want := tr.cell()
	for _, got := range all {
		status := want.status
		if want.other != 0 && got.header.Get("X-Node-Key") == "1" {
			status = want.other
		}
		if got.status != status {
			tr.errorf("answered %d %q after %v, want %d", got.status, got.body, got.took, status)
			continue
		}
		if status == http.StatusServiceUnavailable && got.header.Get("Retry-After") == "" {
			tr.errorf("503 without Retry-After")
		}
	}
}

// checkOutcomes wants the access log to say what became of the token.
func (tr *trial) checkOutcomes() {
	want := tr.cell()
	var outcomes map[string]int
	tr.eventually(20*time.Second, "the access log has all callers", func() bool {
		outcomes = make(map[string]int)
		lines := tr.logLines(`"uri":"/`+tr.name+`"`, `"logger":"http.log.access`)
		for _, line := range lines {
			if line["status"] == float64(want.status) {
				outcome, _ := line["token_outcome"].(string)
				outcomes[outcome]++
			}
		}
		return len(lines) >= callers
	})
	others := 0 // callers who had not to do with what failed
	if want.outcome == "replayed" {
		others = outcomes["injected"]
	}
	if len(outcomes) > 2 || outcomes[want.outcome] == 0 || len(outcomes) == 2 && others == 0 {
		tr.errorf("the outcomes are %v, want %s", outcomes, want.outcome)
	}
}

// logLines returns the lines of Caddy's log that hold these texts.
func (tr *trial) logLines(texts ...string) []map[string]any {
	var lines []map[string]any
next:
	for line := range strings.SplitSeq(tr.c.Log(), "\n") {
		for _, text := range texts {
			if !strings.Contains(line, text) {
				continue next
			}
		}
		var fields map[string]any
		if json.Unmarshal([]byte(line), &fields) == nil {
			lines = append(lines, fields)
		}
	}
	return lines
}

// sourceLines returns what the source has logged.
func (tr *trial) sourceLines() []map[string]any {
	return tr.logLines(`"logger":"token_sources.` + tr.name + `"`)
}

// count counts the lines of the source's log since the fault struck.
func (tr *trial) count(level, message, reason string) int {
	reason = strings.ReplaceAll(reason, "HOST", strings.TrimSuffix(strings.TrimPrefix(tr.tokenURL(), "http://"), "/token"))
	n := 0
	for _, line := range tr.sourceLines()[tr.lines:] {
		is, _ := line["reason"].(string)
		if line["level"] == level && line["msg"] == message && strings.Contains(is, reason) {
			n++
		}
	}
	return n
}

// requests returns how many token requests there were since the fault struck.
func (tr *trial) requests() int {
	n := tr.p.Count() - tr.asked
	if tr.fault.section == ofProvider && n == 0 { // they do not reach the provider
		n = tr.count("warn", present, "") + tr.count("error", noTokenIs, "")
	}
	return n
}

func (tr *trial) checkProvider() {
	want := tr.cell()
	if !tr.eventually(60*time.Second, itoa(want.least)+" token requests", func() bool { return tr.requests() >= want.least }) {
		return
	}
	if n := tr.requests(); want.most >= 0 && n > want.most {
		tr.errorf("%d token requests, want %d at most", n, want.most)
	}
	if want.by != "" {
		var grants []string
		for _, r := range tr.p.Requests()[tr.asked:] {
			grants = append(grants, r.Form.Get("grant_type"))
		}
		if by := strings.Join(grants, ", "); by != want.by {
			tr.errorf("the token requests were %s, want %s", by, want.by)
		}
	}
	if n := tr.p.Reused(); n != want.twice {
		tr.errorf("%d refresh tokens were spent twice, want %d", n, want.twice)
	}
	for _, v := range tr.p.Violations() {
		tr.errorf("against the provider's documentation: %s", v)
	}
}

func (tr *trial) checkLog() {
	want := tr.cell()
	for _, e := range want.log {
		tr.eventually(60*time.Second, fmt.Sprintf("the log says %s %q %q", e.level, e.message, e.reason), func() bool {
			return tr.count(e.level, e.message, e.reason) > 0
		})
	}
	for _, line := range tr.sourceLines() {
		if want.silent && line["level"] == "error" {
			tr.errorf("callers notice nothing, and the log has an error: %v", line)
		}
	}
}

// checkRecovery wants everything to be in order again, by itself, once what
// failed works.
func (tr *trial) checkRecovery() {
	tr.eventually(60*time.Second, "callers are served when it works again", func() bool { return tryToAsk(tr.url).status == http.StatusOK })
	if tr.fault.section == ofStorage {
		tr.eventually(60*time.Second, "the token is stored when the storage works again", func() bool {
			return tr.storedToken() == tr.sentToken()
		})
	}
}

// sentToken is the token that the API saw last.
func (tr *trial) sentToken() string {
	all := tr.p.APIRequests()
	if len(all) == 0 {
		return ""
	}
	return trialBearer(all[len(all)-1])
}

func trialBearer(r *provider.APIRequest) string {
	return strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
}

// storedToken is the access token of the record.
func (tr *trial) storedToken() string {
	var found string
	var look func(any)
	look = func(v any) {
		switch v := v.(type) {
		case string:
			if strings.HasPrefix(v, "access-") {
				found = v
			}
		case map[string]any:
			for _, inner := range v {
				look(inner)
			}
		}
	}
	look(map[string]any(tr.control.Record(tr.name)))
	return found
}
