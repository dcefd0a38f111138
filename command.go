package injecttoken

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/caddytoken/inject-token/refresher"
)

// Exit codes of the commands, beside Caddy's own for success and for what could
// not be done.
const (
	exitRefused   = 4 // the provider refused, or was not reachable
	exitPerson    = 5 // a person must authorize the source
	exitCancelled = 130
)

const exitCodes = `
Exit codes: 0 done; 1 wrong use, nothing to do, or Caddy cannot be asked; 4 the
provider refused or was not reachable; 5 a person must authorize the source (of
refresh and authorize); 130 cancelled.`

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "token-source",
		Usage: "list|show|authorize|refresh|revoke|check|providers|keygen",
		Short: "Shows the token sources of inject_token, and acts on them",
		Long: `
Commands for the token sources of inject_token. All but check, providers and keygen speak to
the running Caddy over its admin API; none shows a token or a secret.
` + exitCodes,
		CobraFunc: func(cmd *cobra.Command) {
			cmd.Example = `  caddy token-source list
  caddy token-source authorize crm`
			cmd.AddCommand(listCommand(), showCommand(), authorizeCobra(), refreshCommand(), revokeCommand(), checkCommand(), providersCommand(), keygenCommand())
			cmd.RunE = caddycmd.WrapCommandFuncForCobra(func(fl caddycmd.Flags) (int, error) {
				if fl.NArg() == 0 {
					return caddy.ExitCodeSuccess, cmd.Help()
				}
				var names []string
				for _, one := range cmd.Commands() {
					names = append(names, one.Name())
				}
				return caddy.ExitCodeFailedStartup, fmt.Errorf("there is no command token-source %s; %s", fl.Arg(0), didYouMean(fl.Arg(0), names))
			})
		},
	})
}

// command returns a command that needs as many arguments as its use names.
func command(use, short, long, example string, args cobra.PositionalArgs, run caddycmd.CommandFunc) *cobra.Command {
	return &cobra.Command{
		Use:     use,
		Short:   short,
		Long:    long,
		Example: example,
		Args:    args,
		RunE:    caddycmd.WrapCommandFuncForCobra(run),
	}
}

// oneName wants the name of one source.
func oneName(cmd *cobra.Command, args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("write the name of one token source: %s", cmd.UseLine())
	}
	if m := checkSourceName(args[0]); m != nil {
		return m
	}
	return nil
}

func listCommand() *cobra.Command {
	cmd := command("list [--json]", "Lists the token sources",
		`
Lists the token sources of the running Caddy: their state, until when their token
is good, and what went wrong.

States: fresh (there is a token); stale (there is one, but the next could not be
had yet); unavailable (there is none); needs_authorization (a person must run
caddy token-source authorize); per_caller (each caller has one of its own).
`+exitCodes,
		`  caddy token-source list
  caddy token-source list --json | jq -r '.[] | select(.state != "fresh") | .name'`,
		cobra.NoArgs, runList)
	cmd.Flags().Bool("json", false, "Print JSON, as the admin API gives it")
	addAdminFlags(cmd)
	return cmd
}

func runList(fl caddycmd.Flags) (int, error) {
	var all []*sourceStatus
	raw, err := askAdmin(fl, http.MethodGet, adminPath, &all)
	if err != nil {
		return exitOf(err)
	}
	if fl.Bool("json") {
		fmt.Println(string(raw))
		return caddy.ExitCodeSuccess, nil
	}
	if len(all) == 0 {
		fmt.Println("There are no token sources.")
		return caddy.ExitCodeSuccess, nil
	}
	printTable(all)
	return caddy.ExitCodeSuccess, nil
}

func showCommand() *cobra.Command {
	cmd := command("show NAME [--json]", "Shows one token source",
		"\nShows what there is to know of one token source, and what to do where something\nis wrong. Never a token.\n"+exitCodes,
		"  caddy token-source show crm", oneName, runShow)
	cmd.Flags().Bool("json", false, "Print JSON, as the admin API gives it")
	addAdminFlags(cmd)
	return cmd
}

func runShow(fl caddycmd.Flags) (int, error) {
	var one sourceStatus
	raw, err := askAdmin(fl, http.MethodGet, sourcePath(fl.Arg(0)), &one)
	if err != nil {
		return exitOf(err)
	}
	if fl.Bool("json") {
		fmt.Println(string(raw))
		return caddy.ExitCodeSuccess, nil
	}
	printSource(&one)
	return caddy.ExitCodeSuccess, nil
}

func refreshCommand() *cobra.Command {
	cmd := command("refresh NAME", "Makes a token request now",
		`
Has the running Caddy obtain a new token now, whatever the provider said before:
after a mistake was mended at the provider, nothing has to be changed or restarted.
`+exitCodes,
		"  caddy token-source refresh crm", oneName, runRefresh)
	addAdminFlags(cmd)
	return cmd
}

func runRefresh(fl caddycmd.Flags) (int, error) {
	name := fl.Arg(0)
	var now sourceStatus
	_, err := askAdmin(fl, http.MethodPost, sourcePath(name)+"/refresh", &now)
	if err == nil {
		if now.State == refresher.PerSubject {
			fmt.Println(name + " has no token of its own: each caller is asked for again.")
			return caddy.ExitCodeSuccess, nil
		}
		fmt.Println(name + " has a new token" + until(now.Expires) + ".")
		return caddy.ExitCodeSuccess, nil
	}
	refused, ok := errors.AsType[*adminRefusal](err)
	if ok && refused.status == http.StatusBadGateway {
		if _, err := askAdmin(fl, http.MethodGet, sourcePath(name), &now); err == nil && now.Authorize != "" {
			return exitPerson, fmt.Errorf("%s: %s", refused.text, now.Authorize)
		}
	}
	return exitOf(err)
}

func revokeCommand() *cobra.Command {
	cmd := command("revoke NAME", "Gives the token back to its provider, and forgets it",
		`
Has the provider end the token of a source, and with it the refresh token
(RFC 7009), and forgets both, here and in the storage. Other nodes notice when they
renew, or when the API refuses the token. Where the provider has no endpoint for
that (revoke_url), they are forgotten alone. A source that needs no person obtains
a new token when the next request comes; one that does has to be authorized again.
`+exitCodes,
		"  caddy token-source revoke crm", oneName, runRevoke)
	addAdminFlags(cmd)
	return cmd
}

func runRevoke(fl caddycmd.Flags) (int, error) {
	var done revocation
	if _, err := askAdmin(fl, http.MethodPost, sourcePath(fl.Arg(0))+"/revoke", &done); err != nil {
		return exitOf(err)
	}
	if done.RevokedAtProvider {
		fmt.Println("The token of " + fl.Arg(0) + " was revoked at the provider, and is forgotten.")
	} else {
		fmt.Println("The token of " + fl.Arg(0) + " is forgotten. At the provider it was not revoked: no revocation endpoint is known (revoke_url).")
	}
	return caddy.ExitCodeSuccess, nil
}

func keygenCommand() *cobra.Command {
	return command("keygen", "Prints a new key for encryption_key",
		`
Prints a new random key for the option encryption_key of token_sources: 32 bytes
in base64. Keep it in a file or an environment variable, and write {file.PATH} or
{env.NAME}.`,
		"  caddy token-source keygen\n  (umask 077; caddy token-source keygen > /etc/caddy/token-key)", cobra.NoArgs,
		func(caddycmd.Flags) (int, error) {
			fmt.Println(NewEncryptionKey())
			return caddy.ExitCodeSuccess, nil
		})
}

// exitOf returns the exit code for an error.
func exitOf(err error) (int, error) {
	if refused, ok := errors.AsType[*adminRefusal](err); ok && refused.status == http.StatusBadGateway {
		return exitRefused, err
	}
	return caddy.ExitCodeFailedStartup, err
}
