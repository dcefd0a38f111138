package injecttoken

import (
	"fmt"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
)

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "token-source",
		Usage: "keygen",
		Short: "Commands for the token sources of inject_token",
		CobraFunc: func(cmd *cobra.Command) {
			keygen := &cobra.Command{
				Use:   "keygen",
				Short: "Prints a new key for encryption_key",
				Long: `
Prints a new random key for the option encryption_key of token_sources: 32 bytes
in base64. Keep it in a file or an environment variable, and write {file.PATH} or
{env.NAME}.`,
				Args: cobra.NoArgs,
				RunE: caddycmd.WrapCommandFuncForCobra(func(caddycmd.Flags) (int, error) {
					fmt.Println(NewEncryptionKey())
					return caddy.ExitCodeSuccess, nil
				}),
			}
			cmd.AddCommand(keygen)
		},
	})
}
