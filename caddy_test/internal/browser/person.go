package browser

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"github.com/caddytoken/inject-token/caddy_test/internal/harness"
)

// patience is how long each step may take.
const patience = time.Minute

// Person is somebody with one window and cookies of their own.
type Person struct {
	tb  testing.TB
	ctx context.Context

	mu      sync.Mutex // guards what follows
	answers map[string]answer
	console []string
}

type answer struct {
	status int
	header http.Header
}

// Page is a page that has been loaded.
type Page struct {
	URL    string // as in the address bar
	Status int
	Header http.Header
	Text   string // what a person reads
}

// New returns a person whose window is closed when the test ends.
func New(tb testing.TB) *Person {
	tb.Helper()
	p := &Person{tb: tb, answers: make(map[string]answer)}
	ctx, end := chromedp.NewContext(running(tb), chromedp.WithNewBrowserContext(), chromedp.WithListener(p.see))
	p.ctx = ctx
	tb.Cleanup(func() {
		if tb.Failed() {
			tb.Logf("the browser's console: %q", p.Console())
		}
		end()
	})
	err := chromedp.Do(ctx, chromedp.Func(func(ctx context.Context, window *chromedp.Target) error {
		_, err := cdp.Call(ctx, window, network.Enable, network.EnableParams{})
		return err
	}))
	if err != nil {
		tb.Fatalf("no window: %v", err)
	}
	return p
}

// do takes steps one after the other. Each waits for what it needs.
func (p *Person) do(what string, steps ...chromedp.Action[chromedp.Void]) {
	p.tb.Helper()
	ask(p, what, chromedp.Steps(steps...))
}

// ask does something that has a result.
func ask[T any](p *Person, what string, action chromedp.Action[T]) T {
	p.tb.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	result, err := chromedp.Run(ctx, action)
	if err != nil {
		p.tb.Fatalf("the person was to %s: %v", what, err)
	}
	return result
}

// see keeps what tests ask for later.
func (p *Person) see(event any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch e := event.(type) {
	case *network.EventResponseReceived:
		if e.Type == network.ResourceTypeDocument {
			header := make(http.Header)
			for name, value := range e.Response.Headers {
				header.Set(name, fmt.Sprint(value))
			}
			p.answers[e.Response.URL] = answer{int(e.Response.Status), header}
		}
	case *log.EventEntryAdded:
		p.console = append(p.console, fmt.Sprintf("%s %s: %s %s", e.Entry.Source, e.Entry.Level, e.Entry.Text, e.Entry.URL))
	case *runtime.EventConsoleAPICalled:
		for _, argument := range e.Args {
			p.console = append(p.console, fmt.Sprintf("console %s: %s%s", e.Type, argument.Value, argument.Description))
		}
	case *runtime.EventExceptionThrown:
		p.console = append(p.console, "exception: "+e.ExceptionDetails.Text)
	}
}

// Console returns what the browser has complained of and pages have written.
func (p *Person) Console() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.console...)
}

// Open opens a URL.
func (p *Person) Open(url string) {
	p.tb.Helper()
	p.do("open "+url, chromedp.Navigate(url))
}

// LogIn fills in oidc-provider's page to log in.
func (p *Person) LogIn(name, password string) {
	p.tb.Helper()
	p.do("log in", chromedp.SendKeys(chromedp.CSS(`input[name=login]`), name), chromedp.SendKeys(chromedp.CSS(`input[name=password]`), password), chromedp.Click(chromedp.CSS(`button[type=submit]`)))
}

// Consent agrees to what oidc-provider asks.
func (p *Person) Consent() {
	p.tb.Helper()
	p.do("consent", chromedp.WaitReady(chromedp.CSS(`input[name=prompt][value=consent]`)), chromedp.Click(chromedp.CSS(`button[type=submit]`)))
}

// Cancel refuses what oidc-provider asks.
func (p *Person) Cancel() {
	p.tb.Helper()
	p.do("cancel", chromedp.WaitReady(chromedp.CSS(`input[name=prompt][value=consent]`)), chromedp.Click(chromedp.CSS(`.login-help a`)))
}

// Follow follows a link from the page that is there.
func (p *Person) Follow(url string) {
	p.tb.Helper()
	p.do("follow a link", chromedp.Evaluate[chromedp.Void](fmt.Sprintf(`(() => {
		const link = document.createElement("a");
		link.href = %q;
		document.body.append(link);
		link.click();
	})()`, url)))
}

// Sees says whether the page has an element.
func (p *Person) Sees(selector string) bool {
	p.tb.Helper()
	return ask(p, "look", chromedp.Evaluate[bool](fmt.Sprintf(`document.querySelector(%q) !== null`, selector)))
}

// Authorize opens an authorization URL, logs in and consents.
func (p *Person) Authorize(url string) {
	p.tb.Helper()
	p.Open(url)
	p.LogIn("peter", "any")
	p.Consent()
}

// ConfirmDevice opens oidc-provider's page for devices, enters the code where
// the address does not hold it, and confirms.
func (p *Person) ConfirmDevice(url, userCode string) {
	p.tb.Helper()
	p.Open(url)
	if userCode != "" {
		p.do("enter the code", chromedp.SendKeys(chromedp.CSS(`input[name=user_code]`), userCode), chromedp.Click(chromedp.CSS(`button[type=submit]`)))
	}
	p.do("confirm the device", chromedp.Click(chromedp.CSS(`button[autofocus]`)))
}

// AbortDevice opens oidc-provider's page for devices, and aborts.
func (p *Person) AbortDevice(url string) {
	p.tb.Helper()
	p.Open(url)
	p.do("abort", chromedp.Click(chromedp.CSS(`button[name=abort]`)), chromedp.WaitVisible(chromedp.CSS(`p.red`)))
}

// Arrive waits until the address bar shows an address that begins so, and
// returns it, whether or not there is a page.
func (p *Person) Arrive(prefix string) (address string) {
	p.tb.Helper()
	harness.Eventually(p.tb, patience, "the browser arrives at "+prefix, func() bool {
		address = p.address()
		return strings.HasPrefix(address, prefix)
	})
	return address
}

// address is what the address bar shows: also of a page that did not load. It
// is empty while one page takes the place of another.
func (p *Person) address() string {
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	history, err := chromedp.Run(ctx, chromedp.NavigationEntries())
	if err != nil {
		return ""
	}
	return history.Entries[history.CurrentIndex].URL
}

// Land waits until a page has been loaded whose address begins so.
func (p *Person) Land(prefix string) Page {
	p.tb.Helper()
	url := p.Arrive(prefix)
	harness.Eventually(p.tb, patience, "the page is there", func() bool {
		ctx, cancel := context.WithTimeout(p.ctx, patience)
		defer cancel()
		there, err := chromedp.Run(ctx, chromedp.Evaluate[bool](`document.readyState === "complete" && location.protocol !== "chrome-error:"`))
		return err == nil && there
	})
	text := ask(p, "read", chromedp.Evaluate[string](`document.body.innerText`))
	p.mu.Lock()
	defer p.mu.Unlock()
	got, told := p.answers[url]
	if !told {
		p.tb.Fatalf("the browser did not tell of the answer at %s", url)
	}
	return Page{url, got.status, got.header, text}
}
