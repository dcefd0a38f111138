package provider

import (
	"crypto/rand"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"testing"
)

// What the QR text of a PIN holds beside it.
const (
	Deployment = "hq"
	Person     = "peter"
)

// pin is what a person has read off the authorization page of AffinityLive. It
// is the code of the token request.
type pin struct {
	redirectURI string
	spent       bool
}

// pinPath is where a person authorizes, on the host of their deployment.
const pinPath = "/oauth2/v0/authorize"

// AuthorizePINURL is the address of AffinityLive's authorization page.
func (p *Provider) AuthorizePINURL() string { return p.URL + pinPath }

// documentedScope is a list of permissions, each with the endpoints that it is
// for, with commas between.
var documentedScope = regexp.MustCompile(`^(read|write)\([a-z]+(,[a-z]+)*\)(,(read|write)\([a-z]+(,[a-z]+)*\))*$`)

// servePIN is AffinityLive's authorization page, for a person who has logged in
// and agrees: it shows a PIN, and a QR code with the text
// DEPLOYMENT;USERNAME;PIN.
func (p *Provider) servePIN(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	query, err := url.ParseQuery(r.URL.RawQuery)
	switch {
	case err != nil || r.Method != http.MethodGet:
		p.Violate("%s of the authorization page, with a query that can be read: %v", r.Method, err == nil)
	case p.only(query, described(query, []string{"client_id", "response_type", "scope"}, "redirect_uri")...) != "":
	case query.Get("response_type") != "code":
		p.Violate("response_type %q", query.Get("response_type"))
	case !documentedScope.MatchString(query.Get("scope")):
		p.Violate("scope %q", query.Get("scope"))
	case query.Get("client_id") != ClientID:
		http.Error(w, "This application is not known.", http.StatusForbidden)
		return
	default:
		number := rand.Text()[:8]
		if p.pins == nil {
			p.pins = make(map[string]*pin)
		}
		p.pins[number] = &pin{redirectURI: query.Get("redirect_uri")}
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		text := html.EscapeString(Deployment + ";" + Person + ";" + number)
		fmt.Fprintf(w, "<!doctype html><title>Authorize</title>\n<p>Your PIN: <b id=pin>%s</b>\n<img id=qr alt=\"%s\">\n", number, text)
		return
	}
	http.Error(w, "invalid_request", http.StatusBadRequest)
}

// described are the parameters that must be there, and those that may be and
// are.
func described(values url.Values, needed []string, optional ...string) []string {
	for _, name := range optional {
		if values.Has(name) {
			needed = append(needed, name)
		}
	}
	return needed
}

// spendPIN takes a PIN, which is good for one token request whose redirect_uri
// is the authorization's. The caller holds the lock.
func (p *Provider) spendPIN(form url.Values) (code string) {
	found := p.pins[form.Get("code")]
	if found == nil || found.spent || found.redirectURI != form.Get("redirect_uri") {
		return "invalid_grant"
	}
	found.spent = true
	return ""
}

// PINs returns every PIN that a person has read, sorted.
func (p *Provider) PINs() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []string
	for number := range p.pins {
		all = append(all, number)
	}
	slices.Sort(all)
	return all
}

var (
	shownPIN = regexp.MustCompile(`<b id=pin>([^<]+)</b>`)
	shownQR  = regexp.MustCompile(`<img id=qr alt="([^"]+)">`)
)

// ReadPIN is a person who opens the authorization page and reads the PIN off
// it, and the text of the QR code with a phone. The test fails if the page
// shows neither.
func ReadPIN(tb testing.TB, authorizationURL string) (number, qr string) {
	tb.Helper()
	resp, err := http.Get(authorizationURL)
	if err != nil {
		tb.Fatal(err)
	}
	defer resp.Body.Close()
	page, err := io.ReadAll(resp.Body)
	if err != nil {
		tb.Fatal(err)
	}
	shown, code := shownPIN.FindSubmatch(page), shownQR.FindSubmatch(page)
	if resp.StatusCode != http.StatusOK || shown == nil || code == nil {
		tb.Fatalf("the authorization page of %s answered %d %s", authorizationURL, resp.StatusCode, page)
	}
	return html.UnescapeString(string(shown[1])), html.UnescapeString(string(code[1]))
}
