package caddy_test

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/caddytoken/inject-token/caddy_test/internal/provider"
)

// holding is what Caddy has of a token when a fault strikes.
type holding int

const (
	valid   holding = iota // it lives on
	expired                // it has ended
	none                   // Caddy starts with the fault
)

var holdings = []holding{valid, expired, none}

func (h holding) String() string { return [...]string{"valid", "expired", "none"}[h] }

// grant is how a source of the table comes by its tokens.
type grant string

const (
	plainGrant    grant = "`client_credentials`"
	rotatingGrant grant = "`client_credentials`, and refresh tokens that rotate"
	refreshGrant  grant = "`refresh_token` alone, which rotates"
)

// word is for names.
func (g grant) word() string {
	return map[grant]string{plainGrant: "plain", rotatingGrant: "rotating", refreshGrant: "refresh"}[g]
}

// fault is something that fails, and what comes of it.
type fault struct {
	section section
	word    string // for names
	title   string
	about   string // what is done here, in one sentence

	options string        // of the source
	lives   time.Duration // how long tokens live that are to end; 0: expiredLifetime
	body    int           // bytes that callers send
	held    bool          // where there is no valid token, the provider answers only when callers wait

	strike func(*trial) // from now on it fails
	lift   func(*trial) // it works again; nil: it never does
	at     step         // of a renewal, where Caddy is killed

	rows []row
}

// row is what comes of a fault with a grant.
type row struct {
	grant grant
	cells [3]cell // by holding
}

// cell is what is to be seen of a fault. The document is made of it, and the
// test checks it.
type cell struct {
	absent  string // why there is no such case
	status  int
	other   int    // status from the nodes of an upstream that refuse; 0: there are none
	outcome string // in the access log
	sent    int    // how often a request of a caller comes to the API; 0: not looked at

	wait  time.Duration // the longest; 0: answered at once
	until string        // what is waited for

	least, most int // token requests since; most < 0: without an end, with growing pauses
	by          string
	twice       int // refresh tokens that are sent although they were spent

	log []entry

	silent bool // nothing at level error
}

// entry is a line of a source's log.
type entry struct {
	level, message string
	reason         string // part of it; HOST is the token endpoint's
}

// served is a cell of callers who notice nothing, and neither does who watches
// the log for errors.
func served() cell { return cell{status: http.StatusOK, outcome: "injected", silent: true} }

// failed is a cell of callers for whom there is no token.
func failed(status int) cell { return cell{status: status, outcome: "failed"} }

// absent is a cell that there is not.
func absent(why string) cell { return cell{absent: why} }

// refusedBy is a cell of callers who get the API's refusal.
func refusedBy() cell {
	return cell{status: http.StatusUnauthorized, outcome: "refused", silent: true}
}

func (c cell) replayed() cell {
	c.outcome = "replayed"
	return c
}

// after says what a caller waits for, and how long at most.
func (c cell) after(until string, wait time.Duration) cell {
	c.until, c.wait = until, wait
	return c
}

// asks says how many token requests there are.
func (c cell) asks(n int) cell {
	c.least, c.most = n, n
	return c
}

// asksBy says how many token requests there are, and of which grants.
func (c cell) asksBy(n int, by string) cell {
	c = c.asks(n)
	c.by = by
	return c
}

// asksAgain says that the provider is asked again and again.
func (c cell) asksAgain() cell {
	c.least, c.most = 2, -1
	return c
}

func (c cell) spendsTwice(n int) cell {
	c.twice = n
	return c
}

func (c cell) sends(n int) cell {
	c.sent = n
	return c
}

func (c cell) logs(level, message, reason string) cell {
	c.log = append(append([]entry(nil), c.log...), entry{level, message, reason})
	return c
}

// section is a part of the table.
type section string

const (
	ofProvider section = "The provider"
	ofStorage  section = "The storage"
	ofUpstream section = "The API"
	ofProcess  section = "Caddy is killed during a renewal"
)

// intercepts is a strike that answers token requests.
func intercepts(answer func(http.ResponseWriter, *http.Request, int) bool) func(*trial) {
	return func(tr *trial) { tr.answers(answer) }
}

// works is a lift of intercepts.
func works(tr *trial) { tr.answers(nil) }

// slowly answers a token request late, and well.
func slowly(delay time.Duration) func(http.ResponseWriter, *http.Request, int) bool {
	return func(_ http.ResponseWriter, r *http.Request, _ int) bool {
		select {
		case <-time.After(delay):
			return false
		case <-r.Context().Done():
			return true
		}
	}
}

// tokenSource is the text of a trial's source.
func (tr *trial) tokenSource() string {
	text := fmt.Sprintf("source %s {\n token_url %s\n client_id %s\n client_secret {file.{{dir}}/secret}\n %s\n",
		tr.name, tr.tokenURL(), provider.ClientID, tr.fault.options)
	if tr.holding == valid {
		text += "refresh_at 1%\n"
	}
	if tr.row.grant == refreshGrant {
		return text + "grant refresh_token\n refresh_token {file.{{dir}}/" + tr.name + "}\n}\n"
	}
	return text + "grant client_credentials\n}\n"
}

// waitFor waits for a channel, or for the end of a request.
func waitFor(ctx context.Context, c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	case <-ctx.Done():
		return false
	}
}
