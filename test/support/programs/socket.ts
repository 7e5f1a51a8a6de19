/** Joins its input and output with a Unix socket, until the other end closes it. */
import { connect } from "node:net"

const socket = connect(process.argv[2] ?? "")
process.stdin.pipe(socket)
socket.pipe(process.stdout)
socket.on("error", (error) => {
  console.error(error.message)
  process.exitCode = 1
})
// Its input alone would keep it alive, and a client at its output would wait.
socket.on("close", () => process.exit())
