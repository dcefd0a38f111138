package injecttoken

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
	"golang.org/x/term"
	"rsc.io/qr"
)

func authorizeCobra() *cobra.Command {
	cmd := command("authorize NAME [--open]", "Has a person authorize a token source",
		`
Begins the authorization of a source with the grant authorization_code or
device_code, says what a person has to do in a browser, and waits until that is
done: on whatever machine the browser is.

With a redirect_uri that leads to token_callback, the command ends by itself. Else
paste the code or PIN that the provider shows, or the address at which the browser
has ended. Where the redirect_uri is a port of 127.0.0.1 at which nobody listens, the
command listens there itself. With device_code it shows a short code, and a QR code,
for another device. What is begun ends after ten minutes, or when you press Ctrl-C.
A source that has a token keeps it until the new one is there.
`+exitCodes,
		`  caddy token-source authorize crm
  caddy token-source authorize crm --address unix//run/caddy.sock`,
		oneName, runAuthorize)
	cmd.Flags().Bool("open", false, "Open the address in the browser of this machine")
	addAdminFlags(cmd)
	return cmd
}

// pollEvery is how often the command asks what has become of an authorization.
const pollEvery = time.Second

// authorizing is one run of the command.
type authorizing struct {
	admin *admin
	name  string
	id    string
	lines <-chan string // what the person has typed; closed at its end
	wrong error         // what was said of the last line

	*authorization // as it was told last
}

func runAuthorize(fl caddycmd.Flags) (int, error) {
	admin, err := newAdmin(fl)
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	r := &authorizing{admin: admin, name: fl.Arg(0)}
	if err := r.ask(ctx, http.MethodPost, "/authorize", nil); err != nil {
		return exitOf(err)
	}
	r.id = r.ID
	if r.UserCode != "" {
		r.tellDevice()
	} else {
		r.tellURL(fl.Bool("open"))
		if stop := r.listen(ctx); stop != nil {
			defer stop()
		}
		r.lines = readLines(os.Stdin)
		fmt.Print("\n> ")
	}
	return r.wait(ctx)
}

// ask asks the admin API for what has become of the authorization.
func (r *authorizing) ask(ctx context.Context, method, path string, body any) error {
	now := new(authorization)
	if _, err := r.admin.ask(ctx, method, sourcePath(r.name)+path, body, now); err != nil {
		return err
	}
	r.authorization = now
	return nil
}

func (r *authorizing) poll(ctx context.Context) error {
	return r.ask(ctx, http.MethodGet, "/authorizations/"+r.id, nil)
}

func (r *authorizing) tellURL(open bool) {
	fmt.Printf("Open this address in a browser, and say yes there:\n\n  %s\n\n", r.AuthorizationURL)
	if open && !openBrowser(r.AuthorizationURL) {
		fmt.Println("No browser could be opened here.")
	}
	if !r.comesBack() {
		fmt.Printf("Paste here the code that is shown, and press Enter. It is waited for until %s.\n", r.clock())
		return
	}
	fmt.Printf("The browser comes back to %s, which must be registered at\nthe provider. Then this ends by itself. If it does not: paste here the code that is shown, or\nthe address at which the browser has ended, and press Enter. It is waited for until %s.\n", r.RedirectURI, r.clock())
}

// comesBack says whether the browser brings the code; else the provider shows it.
func (r *authorizing) comesBack() bool {
	return r.RedirectURI != "" && !strings.HasPrefix(r.RedirectURI, "urn:")
}

func (r *authorizing) tellDevice() {
	fmt.Printf("On whatever device has a browser, open\n\n  %s\n\nand enter the code\n\n  %s\n\n", r.VerificationURI, r.UserCode)
	address := r.VerificationURIComplete
	if address == "" {
		address = r.VerificationURI
	}
	if term.IsTerminal(int(os.Stdout.Fd())) { //nolint:gosec // a file descriptor fits
		if code, err := qr.Encode(address, qr.L); err == nil {
			fmt.Println(drawQR(code))
		}
	}
	fmt.Printf("It is waited for until %s.\n", r.clock())
}

func (r *authorizing) clock() string { return r.Expires.Local().Format("15:04") }

// wait ends when the authorization has, however that came.
func (r *authorizing) wait(ctx context.Context) (int, error) {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	away := false // Caddy does not answer
	for {
		select {
		case <-ctx.Done():
			r.cancel()
			os.Exit(exitCancelled) // an exit code without an error is one to Caddy
		case line, more := <-r.lines:
			if !more {
				r.lines = nil
				if !r.comesBack() {
					if r.wrong != nil {
						return exitRefused, r.wrong
					}
					return caddy.ExitCodeFailedStartup, errors.New("there was no code: the input has ended")
				}
				continue
			}
			if code, err, ended := r.paste(ctx, line); ended {
				return code, err
			}
		case <-tick.C:
			err := r.poll(ctx)
			if refused, ok := errors.AsType[*adminRefusal](err); ok {
				if refused.status == http.StatusNotFound {
					return caddy.ExitCodeFailedStartup, errors.New("not authorized: " + r.name + " was removed or changed in the configuration meanwhile, or this authorization was forgotten")
				}
				return exitOf(err)
			}
			if err != nil && ctx.Err() == nil && !away {
				fmt.Println("\nCaddy does not answer any more. Waiting for it to come back …")
			}
			away = err != nil
			if time.Since(r.Expires) > pollEvery && away {
				return exitOf(err)
			}
		}
		if code, err, ended := r.ended(); ended {
			return code, err
		}
	}
}

// cancel ends the authorization, so that what is done in the browser later does not
// count.
func (r *authorizing) cancel() {
	ctx, stop := context.WithTimeout(context.Background(), 5*time.Second)
	defer stop()
	if err := r.ask(ctx, http.MethodDelete, "/authorizations/"+r.id, nil); err != nil {
		fmt.Printf("\nCancelled here. What is done in the browser still counts until %s.\n", r.clock())
		return
	}
	fmt.Println("\nCancelled. Nothing has changed.")
}

// paste sends what a person has typed.
func (r *authorizing) paste(ctx context.Context, line string) (code int, err error, ended bool) { //nolint:revive // err is for the caller's caller
	if line = strings.TrimSpace(line); line == "" {
		fmt.Print("> ")
		return 0, nil, false
	}
	if wasCut(line) {
		fmt.Printf("\nThe terminal has cut this line at %d bytes. Paste only the code that is in it, which stands\nbehind code= and ends at the next &.\n\n> ", len(line))
		return 0, nil, false
	}
	err = r.ask(ctx, http.MethodPost, "/complete", completion{ID: r.id, Code: line})
	refused, ok := errors.AsType[*adminRefusal](err)
	switch {
	case err == nil:
		return 0, nil, false // see ended
	case ctx.Err() != nil:
		return 0, nil, false
	case !ok:
		return caddy.ExitCodeFailedStartup, err, true
	}
	if err := r.poll(ctx); err == nil && r.Status == authorizationPending {
		fmt.Printf("\n%s\nTry again, or press Ctrl-C.\n\n> ", sentence(refused.text))
		r.wrong = refused
		return 0, nil, false
	}
	if r.Status == authorizationGranted { // by the callback, at the same time
		return 0, nil, false
	}
	code, err = exitOf(refused)
	return code, err, true
}

// ended says what became of the authorization, once that is known.
func (r *authorizing) ended() (code int, err error, ended bool) { //nolint:revive // as above
	switch r.Status {
	case authorizationGranted:
		r.tellGranted()
		return caddy.ExitCodeSuccess, nil, true
	case authorizationFailed:
		fmt.Println()
		return exitRefused, errors.New("not authorized: " + r.Message), true
	case authorizationLost, authorizationExpired:
		fmt.Println()
		return exitPerson, errors.New("not authorized: " + r.Message), true
	}
	return 0, nil, false
}

func (r *authorizing) tellGranted() {
	fmt.Printf("\nAuthorized: %s has a token%s", r.name, until(r.TokenExpires))
	if r.Refreshable {
		fmt.Print(", which is renewed by itself from now on")
	}
	fmt.Println(".")
	if len(r.Scopes) > 0 {
		fmt.Println("Granted: " + strings.Join(r.Scopes, " "))
	}
	if !r.Refreshable {
		fmt.Println("The provider gave no refresh token with it: when the token ends, it will want a person\nagain. Many providers give one only if they are asked for it, such as with the scope\noffline_access.")
	}
	if r.Message != "" {
		fmt.Println(r.Message)
	}
}

// wasCut says whether a terminal has cut a line: Linux does at 4095 bytes, macOS and
// its kin at 1023.
func wasCut(line string) bool {
	limit := 4095
	if runtime.GOOS != "linux" {
		limit = 1023
	}
	return len(line) == limit && term.IsTerminal(int(os.Stdin.Fd())) //nolint:gosec // a file descriptor fits
}

// readLines returns what is typed. The goroutine ends with the input or with the
// process: a read cannot be called off.
func readLines(in *os.File) <-chan string {
	lines := make(chan string)
	go func() {
		defer close(lines)
		scanner := bufio.NewScanner(in)
		scanner.Buffer(nil, maxAdminBody)
		for scanner.Scan() {
			lines <- scanner.Text()
		}
	}()
	return lines
}

// openBrowser opens an address with the program that the system has for it.
func openBrowser(address string) bool {
	command := []string{"xdg-open", address}
	switch runtime.GOOS {
	case "darwin":
		command[0] = "open"
	case "windows":
		command = []string{"rundll32", "url.dll,FileProtocolHandler", address}
	}
	return exec.Command(command[0], command[1:]...).Start() == nil //nolint:gosec // the address is that of the configured provider
}

// drawQR draws black on white, whatever colors the terminal has: two rows of
// modules to a line.
func drawQR(code *qr.Code) string {
	const border = 4
	var out strings.Builder
	for y := -border; y < code.Size+border; y += 2 {
		out.WriteString("\x1b[30;107m")
		for x := -border; x < code.Size+border; x++ {
			switch upper, lower := code.Black(x, y), code.Black(x, y+1); {
			case upper && lower:
				out.WriteString("█")
			case upper:
				out.WriteString("▀")
			case lower:
				out.WriteString("▄")
			default:
				out.WriteString(" ")
			}
		}
		out.WriteString("\x1b[0m\n")
	}
	return out.String()
}
